"""Runs that are killed at random moments and started again until they are done, each life a fork of this process.

The fork has torch imported and nothing else done with it; what a life computes it computes in its own process, and all
it takes over from earlier lives is the run directory.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from plainloop.errors import NoProgress, Preempted
from plainloop.loop.trainer import Trainer
from plainloop.run.run import run
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness.toys import equal

PHASES = ("start", "step", "edge", "evaluate", "save", "end")


@dataclass
class Tally:
    """What has been done to the runs."""

    lives: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # by the phase that was hit

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


def live(config: dict[str, Any], folder: Path, phase: mmap.mmap) -> int:
    """Forks a life of the run; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (0, 1):
            os.dup2(devnull, descriptor)
        with marking(phase):
            run(config, folder)
        code = 0
    except (Preempted, NoProgress) as ended:
        code = ended.code
    finally:
        os._exit(code)


@contextmanager
def marking(phase: mmap.mmap) -> Iterator[None]:
    """Writes down where the run is, for the one who kills it. Changes nothing that it does."""

    def mark(name: str) -> None:
        phase[0] = PHASES.index(name)

    def marked(kind: type, method: str, name: str | None) -> None:
        original = getattr(kind, method)

        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            if name is None:  # an update: at the edge of an epoch or within
                step = args[1].step
                mark("edge" if (step + 1) % self.steps_per_epoch < 2 else "step")
                return original(self, *args, **kwargs)
            mark(name)
            result = original(self, *args, **kwargs)
            mark("step")
            return result

        setattr(kind, method, wrapper)

    mark("start")
    marked(Trainer, "update", None)
    marked(Trainer, "evaluate", "evaluate")
    marked(Trainer, "save", "save")
    marked(Trainer, "fit", "start")
    yield
    mark("end")


def finish(config: dict[str, Any], folder: Path) -> float:
    """Lets the run go on undisturbed; seconds."""
    phase = mmap.mmap(-1, 1)
    started = time.monotonic()
    code = NoProgress.code
    while code == NoProgress.code:  # said once after three kills without a new checkpoint; it may be started again
        _, status = os.waitpid(live(config, folder, phase), 0)
        code = os.waitstatus_to_exitcode(status)
    assert code == 0, f"the run in {folder} failed; see its status.json"
    return time.monotonic() - started


def torment(
    config: dict[str, Any],
    folder: Path,
    tally: Tally,
    rng: random.Random,
    *,
    longest: float,
    enough: Callable[[Tally], bool],
    signals: tuple[int, ...] = (signal.SIGKILL,),
) -> None:
    """Kills the run at random moments until it has got to its end, or there were enough kills; then lets it finish."""
    phase = mmap.mmap(-1, 1)
    while not enough(tally):
        tally.lives += 1
        pid = live(config, folder, phase)
        until = time.monotonic() + rng.uniform(0.01, longest)
        ended = 0
        while time.monotonic() < until and not ended:
            ended, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)
        if not ended:
            hit = PHASES[phase[0]]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, rng.choice(signals))
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:  # it was quicker
            return
        expected = {*(-number for number in signals), Preempted.code, NoProgress.code}
        assert code in expected, f"{folder}: exit code {code}"
        if not ended and code != NoProgress.code:
            tally.kills[hit] += 1
    finish(config, folder)


def remains(folder: Path) -> dict[str, Any]:
    """What a run leaves that must not depend on what happened to it: the state, the log but for the clock, weights."""
    loaded = Checkpoints(folder / "checkpoints").newest()
    assert loaded is not None
    best = json.loads((folder / "checkpoints" / "best.json").read_text())
    best.pop("file")  # a step that is saved once more, with its evaluation, has another name
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "state": loaded.state,
        "rows": [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows],
        "best": best,
        "best.safetensors": (folder / "best.safetensors").read_bytes(),
        "last.safetensors": (folder / "last.safetensors").read_bytes(),
    }


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of what is not equal to the last bit."""
    found = []
    for key in one.keys() | other.keys():
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += differences(mine, theirs, f"{prefix}{key}.")
        elif type(mine) is not type(theirs) or not equal(mine, theirs):
            found.append(f"{prefix}{key}")
    return sorted(found)


torch.set_num_threads(1)  # the parent forks: it must not have started threads
