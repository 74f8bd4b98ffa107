"""Where a run's lines are shown: a terminal, a pipe, or a pipe that nobody reads any more. Nothing heavy here."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

Handler = logging.StreamHandler[TextIO]


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether lines on the stream (standard output) can be drawn again."""
    return (stream or sys.stdout).isatty() and os.environ.get("TERM", "dumb") != "dumb"


def columns() -> int:
    """Characters of a line on standard output; 0 where it is no terminal, and lines may have any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def handlers_on_screen() -> list[Handler]:
    """The handlers that log to standard output or standard error."""
    handlers = [*logging.getLogger().handlers, *logging.getLogger("plainloop").handlers]
    return [handler for handler in handlers if type(handler) is logging.StreamHandler]


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows `what` on a terminal for the time of the block."""
    shown = is_terminal(sys.stderr)
    if shown:
        sys.stderr.write(f"{what} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """Shows on standard error how far the block is: on a terminal in one line, which goes away; else every 10 s.

    What it gives takes how many are done, of how many (0: not known), and of which part.
    """
    on_terminal = is_terminal(sys.stderr)
    every, shown_at, shown = 0.2 if on_terminal else 10.0, time.monotonic(), False

    def tell(done: int, total: int = 0, part: str = "") -> None:
        nonlocal shown_at, shown
        if time.monotonic() - shown_at < every:
            return
        shown_at, shown = time.monotonic(), True
        text = f"{what}{' ' if part else ''}{part} {done:,}" + (f"/{total:,}" if total else "")
        sys.stderr.write(f"\r{text}\x1b[K" if on_terminal else f"{text}\n")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        if shown and on_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def ignore_closed_screen() -> None:
    """Makes log lines that nobody can read (`| head -3`, a closed terminal) go nowhere instead of failing."""
    for handler in handlers_on_screen():
        if not isinstance(handler.handleError, functools.partial):
            handler.handleError = functools.partial(_to_nowhere, handler, handler.handleError)  # type: ignore[method-assign]


def _to_nowhere(handler: Handler, otherwise: Callable[[logging.LogRecord], None], record: logging.LogRecord) -> None:
    if not isinstance(sys.exc_info()[1], OSError):
        otherwise(record)
        return
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        closed = os.fstat(handler.stream.fileno())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):  # both where they are one pipe: 2>&1
            if os.path.samestat(os.fstat(descriptor), closed):
                os.dup2(nowhere, descriptor)
        os.close(nowhere)
