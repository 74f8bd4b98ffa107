"""The bar at the bottom of a terminal while a run trains."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from plainloop.loggers.screen import handlers_on_screen, is_terminal

SHORTEST_BAR = 10  # columns


class Bar:
    """Drawn by the caller of `move`, not by a thread, which a fork of data workers could copy while it draws."""

    def __init__(self, total_steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[label]}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(force_terminal=True, highlight=False),
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_steps, label="loading", text="")
        self._progress.start()
        self._handlers = [handler for handler in handlers_on_screen() if is_terminal(handler.stream)]
        self._streams = [handler.stream for handler in self._handlers]
        for handler in self._handlers:
            handler.setStream(sys.stdout)  # rich has replaced it by one that prints above the bar
            handler.addFilter(_is_no_row)

    def move(self, step: int, label: str, fields: Sequence[str], *, total: int) -> None:
        """Draws the bar at `step` of `total`: what is being done, and as many of `fields`, in order, as have room."""
        room = self._progress.console.width - SHORTEST_BAR - len(label) - 3
        while len(fields) > 1 and len("  ".join(fields)) > room:
            fields = fields[:-1]
        with contextlib.suppress(OSError):  # the terminal was closed; the run goes on
            self._progress.update(
                self._task, completed=step, total=total, label=label, text="  ".join(fields), refresh=True
            )

    def keep(self, line: str, *, bold: bool) -> None:
        """Prints a line that stays, above the bar."""
        with contextlib.suppress(OSError):
            self._progress.console.print(Text(line, style="bold green" if bold else ""), soft_wrap=True)

    def close(self) -> None:
        """Removes the bar and restores cursor, streams and handlers."""
        with contextlib.suppress(OSError):
            self._progress.stop()
        for handler, stream in zip(self._handlers, self._streams, strict=True):
            handler.removeFilter(_is_no_row)
            handler.setStream(stream)


def _is_no_row(record: logging.LogRecord) -> bool:
    return not getattr(record, "row", False)
