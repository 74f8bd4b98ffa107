"""Kills a run before a chosen line of its source, so that every point between two statements can be hit on purpose."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import plainloop

# What a step, an evaluation and a save do and leave on disk: every line of these files is a point to be killed at.
# Not those that look at the clock: how often a run comes to their lines differs.
SRC = Path(plainloop.__file__).parent
WATCHED = {str(path) for path in SRC.glob("loop/*.py") if path.stem not in ("agreement", "stopwatch")}
WATCHED |= {str(SRC / name) for name in ("run_dir/recorder.py", "run_dir/checkpoints.py", "system/storage.py")}


class Point(NamedTuple):
    """Just before a line; line 0 stands for the function's return."""

    module: str
    function: str
    line: int


def trace(visit: Callable[[Point], None]) -> None:
    """From now on `visit` is called at every point that this process comes to."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event in ("line", "return"):
            code = frame.f_code
            visit(Point(Path(code.co_filename).stem, code.co_qualname, frame.f_lineno if event == "line" else 0))
        return local

    sys.settrace(lambda frame, event, _: local if frame.f_code.co_filename in WATCHED else None)


def killed_at(point: Point, hit: int) -> Callable[[], None]:
    """SIGKILL when this process comes to the point for the `hit`-th time, from 1."""
    seen: Counter[Point] = Counter()

    def visit(here: Point) -> None:
        seen[here] += 1
        if here == point and seen[here] == hit:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: trace(visit)
