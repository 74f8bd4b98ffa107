"""The bar at the bottom of a terminal while a run trains."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

SHORTEST_BAR = 10  # columns


def is_terminal() -> bool:
    """Whether standard output, where log lines go, is a screen whose lines can be drawn again."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Bar:
    """Draws inside `move`, without a thread: forking data workers in the middle of a thread's work could hang them."""

    def __init__(self, total_steps: int, step: int) -> None:
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(force_terminal=True, highlight=False),
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=step, text="")
        self._progress.start()
        self._handlers = _handlers_on_screen()
        self._streams = [handler.stream for handler in self._handlers]
        for handler in self._handlers:
            handler.setStream(sys.stdout)  # rich's by now: it prints above the bar
            handler.addFilter(_is_no_row)

    def move(self, step: int, fields: Sequence[str]) -> None:
        """Draws the bar at `step` with as many of `fields`, the most important first, as the width has room for."""
        room = self._progress.console.width - SHORTEST_BAR - 2
        while len(fields) > 1 and len("  ".join(fields)) > room:
            fields = fields[:-1]
        with contextlib.suppress(OSError):  # a terminal that was closed ends no run
            self._progress.update(self._task, completed=step, text="  ".join(fields), refresh=True)

    def keep(self, line: str, *, bold: bool) -> None:
        """Prints a line that stays, above the bar."""
        with contextlib.suppress(OSError):
            self._progress.console.print(Text(line, style="bold green" if bold else ""), soft_wrap=True)

    def close(self) -> None:
        """Takes the bar away and gives back cursor, streams and handlers."""
        with contextlib.suppress(OSError):
            self._progress.stop()
        for handler, stream in zip(self._handlers, self._streams, strict=True):
            handler.removeFilter(_is_no_row)
            handler.setStream(stream)


def _handlers_on_screen() -> list[logging.StreamHandler[TextIO]]:
    handlers = [*logging.getLogger().handlers, *logging.getLogger("plainloop").handlers]
    return [handler for handler in handlers if type(handler) is logging.StreamHandler and handler.stream.isatty()]


def _is_no_row(record: logging.LogRecord) -> bool:
    return not getattr(record, "row", False)
