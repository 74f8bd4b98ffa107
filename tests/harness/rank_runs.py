"""Whole runs on forked ranks: started, signalled, killed, and looked at."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plainloop.contracts import Batch
from plainloop.distributed import failures
from plainloop.distributed.failures import Failure
from plainloop.errors import LostPeer
from plainloop.loop.trainer import Trainer
from plainloop.run.run import run
from tests.harness import ranks

AtStep = Callable[[int], None]


def begin(
    config: dict[str, Any], folder: Path, world_size: int, at_step: AtStep | None = None, meeting: Path | None = None
) -> list[int]:
    """Forks the ranks of a run; their process ids. `at_step` gets the finished steps before each update."""

    def act() -> None:
        mute()
        if at_step:
            before_updates(lambda step, batch: at_step(step))
        run(config, folder)

    return ranks.start(meeting or new_meeting(folder), world_size, act)


def new_meeting(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.meetings" / str(time.monotonic_ns())


def mute() -> None:
    """Rank 0's console is not the test's."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (0, 1):
        os.dup2(devnull, descriptor)


def before_updates(look: Callable[[int, Batch], None]) -> None:
    """Calls `look` with the finished steps and the batch before every update of this process; changes nothing else."""
    update = Trainer.update

    def watched(self: Trainer, model: Any, state: Any, batch: Batch) -> None:
        look(state.step, batch)
        update(self, model, state, batch)

    Trainer.update = watched  # type: ignore[method-assign]


def wait_or_kill(pids: list[int], rank: int, meeting: Path, *, after_s: float) -> list[int]:
    """Exit codes of the ranks; one of them is killed if it is still there after some seconds."""
    until = time.monotonic() + after_s
    while time.monotonic() < until and not any(has_ended(pid) for pid in pids):
        time.sleep(0.002)
    if not any(has_ended(pid) for pid in pids):
        os.kill(pids[rank], signal.SIGKILL)
        # As the launcher does, which sees it at once: the other need not wait for a word of the dead.
        failures.note(meeting, Failure(rank, "killed by SIGKILL", LostPeer.code, LostPeer.reason, time=time.time()))
    return ranks.wait(pids)


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
