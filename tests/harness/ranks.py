"""Ranks as forks of the test's own process: they start in milliseconds, and are as real as any."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plainloop.distributed import process_group, ranks
from plainloop.run.run import run
from tests.harness import inject
from tests.harness.children import LONGEST_S, Child

AtStep = Callable[[int], None]


def start(folder: Path, world_size: int, act: Callable[[], Any]) -> list[Child]:
    """The ranks; each finds its place in the environment and joins nothing by itself. They meet in the folder."""
    folder.mkdir(mode=0o700, parents=True)

    def ranked(rank: int) -> None:
        os.environ |= dict(zip(ranks.OURS, map(str, (rank, world_size, rank, world_size)), strict=True))
        os.environ[ranks.RENDEZVOUS] = str(folder)
        (folder / f"{rank}.result").write_bytes(pickle.dumps(act()))

    return [Child(lambda rank=rank: ranked(rank)) for rank in range(world_size)]


def wait(children: list[Child]) -> list[int]:
    """Exit codes; what has not ended long after is killed."""
    until = time.monotonic() + LONGEST_S
    return [child.wait(max(0.0, until - time.monotonic())).code for child in children]


def on_ranks(folder: Path, world_size: int, act: Callable[[], Any], *, timeout_s: float = 60.0) -> list[Any]:
    """What `act` gives on each rank of a process group, rank 0's first. Fails with a failed rank's traceback."""

    def joined() -> Any:
        with process_group.process_group("cpu", timeout_s=timeout_s):
            return act()

    children = start(folder, world_size, joined)
    assert wait(children) == [0] * world_size, "\n".join(child.wait().err for child in children)
    return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(world_size)]


def start_run(
    config: dict[str, Any],
    folder: Path,
    world_size: int,
    at_step: AtStep = lambda step: None,
    *,
    meeting: Path | None = None,
    prepare: Callable[[], Any] = lambda: None,
) -> list[Child]:
    """The ranks of a run. `at_step` gets the finished steps before each update."""

    def act() -> None:
        prepare()
        inject.before_updates(lambda step, batch: at_step(step))
        run(config, folder)

    return start(meeting or new_meeting(folder), world_size, act)


def new_meeting(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.meetings" / str(time.monotonic_ns())
