"""Kills a run before a chosen line of its source, so that every point between two statements can be hit on purpose."""

from __future__ import annotations

import dis
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

from plainloop.loop.state import EMA
from plainloop.loop.trainer import Trainer
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.recorder import Recorder
from plainloop.system import storage

# What a step does and what it leaves on disk: a line that is added to one of these is a point to be killed at.
WATCHED: tuple[Callable[..., Any], ...] = (
    Trainer.fit,
    Trainer.settle,
    Trainer.update,
    Trainer.evaluate,
    Trainer.report,
    Trainer.save,
    Trainer.take_in,
    Trainer.take_stock,
    EMA.update,
    Recorder.row,
    Recorder.save,
    Checkpoints.save,
    Checkpoints._tidy,
    storage.write_whole,
)


@dataclass(frozen=True, order=True)
class Point:
    """Just before a line; line 0 stands for the function's return."""

    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.function}:{self.line or 'return'}"


def codes() -> dict[CodeType, str]:
    functions = (getattr(function, "__wrapped__", function) for function in WATCHED)
    return {function.__code__: function.__qualname__ for function in functions if isinstance(function, FunctionType)}


def points() -> set[Point]:
    """All that there are in the source as it is now."""
    lines = {Point(name, line) for code, name in codes().items() for _, line in dis.findlinestarts(code) if line}
    firsts = {Point(name, code.co_firstlineno) for code, name in codes().items()}
    return (lines | {Point(name, 0) for name in codes().values()}) - firsts


@contextmanager
def tracing(visit: Callable[[Point], None]) -> Iterator[None]:
    """Calls `visit` at every point that the block comes to."""
    watched = codes()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event in ("line", "return"):
            visit(Point(watched[frame.f_code], frame.f_lineno if event == "line" else 0))
        return local

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code in watched else None

    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(None)


@contextmanager
def killed_at(point: Point, hit: int) -> Iterator[None]:
    """SIGKILL when the block comes to the point for the `hit`-th time, from 1."""
    seen: Counter[Point] = Counter()

    def visit(here: Point) -> None:
        if here == point:
            seen[here] += 1
            if seen[here] == hit:
                os.kill(os.getpid(), signal.SIGKILL)

    with tracing(visit):
        yield
