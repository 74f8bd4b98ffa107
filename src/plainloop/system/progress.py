"""Progress of work that takes long and is no training step: who does it reports here, who draws the screen shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("plainloop")

Show = Callable[[str, int, int], None]  # what is done, how many are done, of how many

LINE_EVERY_S = 10.0

_shown_by: list[Show] = []


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to be called with the number that is done. Where nothing draws, a line says it now and then."""
    show = _shown_by[-1] if _shown_by else _Lines()
    show(label, 0, total)
    yield lambda done: show(label, done, total)


@contextmanager
def progress_shown_by(show: Show) -> Iterator[None]:
    _shown_by.append(show)
    try:
        yield
    finally:
        _shown_by.remove(show)


class _Lines:
    def __init__(self) -> None:
        self._line_at = time.monotonic()

    def __call__(self, label: str, done: int, total: int) -> None:
        if time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            log.info("%s %d/%d", label, done, total)
