"""The interface of run_dir/recorder.py that the loop needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from plainloop.contracts import Split
from plainloop.loop.evaluation.collect import Collected
from plainloop.loop.state import TrainState


class Recorder(Protocol):
    """Writes rows, checkpoints and heartbeats. Ranks other than 0 have one that does nothing."""

    folder: Path

    def advance(self, step: int) -> None: ...

    def evaluating(self, split: Split, rows: int) -> None: ...

    def evaluated(self, step: int, metrics: dict[str, float], collected: Collected) -> None:
        """Writes down the best validation so far, before its row."""
        ...

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None: ...

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None: ...

    def skipped(self, step: int, samples: list[dict[str, Any]]) -> None:
        """Writes down samples that could not be read: their split, index, and why; each one once."""
        ...

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        """Writes down a step with a bad number; the command that replays it."""
        ...
