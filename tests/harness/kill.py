"""Runs that are killed at random moments and started again until they are done."""

from __future__ import annotations

import mmap
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plainloop.errors import NoProgress, Preempted
from plainloop.loop.trainer import Trainer
from tests.harness import inject
from tests.harness.runs import start_config

PHASES = ("start", "fit", "step", "edge", "evaluate", "save", "end")  # edge: the first and the last step of an epoch


@dataclass
class Tally:
    """What has been done to the runs."""

    starts: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # by the phase that was hit

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


def marking(phase: mmap.mmap) -> Callable[[], None]:
    """Writes down where the run is, for the one who kills it. Changes nothing that it does."""

    def mark(name: str) -> None:
        phase[0] = PHASES.index(name)

    def step(trainer: Trainer, model: Any, state: Any, batch: Any) -> None:
        mark("edge" if (state.step + 1) % trainer.steps_per_epoch < 2 else "step")

    def prepare() -> None:
        mark("start")
        inject.before(Trainer, "update", step)
        for method, during, after in (
            ("evaluate", "evaluate", "step"),
            ("save", "save", "step"),
            ("fit", "start", "end"),
        ):
            inject.before(Trainer, method, lambda *_, name=during: mark(name))
            inject.after(Trainer, method, lambda *_, name=after: mark(name))

    return prepare


def finish(config: dict[str, Any], folder: Path) -> float:
    """Lets the run go on undisturbed; seconds."""
    started = time.monotonic()
    code = NoProgress.code
    while code == NoProgress.code:  # said once after three kills without a new checkpoint; it may be started again
        code = start_config(config, folder).wait().code
    assert code == 0, f"the run in {folder} failed; see its status.json"
    return time.monotonic() - started


def kill_until_done(
    config: dict[str, Any],
    folder: Path,
    tally: Tally,
    rng: random.Random,
    *,
    longest: float,
    enough: Callable[[Tally], bool],
) -> None:
    """Kills the run at random moments until it has got to its end, or there were enough kills; then lets it finish."""
    phase = mmap.mmap(-1, 1)
    while not enough(tally):
        tally.starts += 1
        child = start_config(config, folder, prepare=marking(phase))
        until = time.monotonic() + rng.uniform(0.01, longest)
        child.until(lambda until=until: time.monotonic() > until)
        hit = PHASES[phase[0]]
        child.kill(signal.SIGKILL)
        code = child.wait().code
        if code == 0:  # it was quicker
            return
        assert code in (-signal.SIGKILL, Preempted.code, NoProgress.code), f"{folder}: exit code {code}"
        tally.kills[hit] += code == -signal.SIGKILL
    finish(config, folder)
