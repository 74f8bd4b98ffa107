"""Times of the open log window."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

from plainloop.contracts import Batch


def closing_workers(batches: Iterator[Batch]) -> AbstractContextManager[Iterator[Batch]]:
    """Ends the data workers of an unfinished iteration; an iterator that is no generator has none."""
    return closing(batches) if isinstance(batches, Generator) else nullcontext(batches)


class Stopwatch:
    """Measures the time per step and the wait for data; not evaluations and saves."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0

    def fetching(self, batches: Iterator[Batch]) -> Generator[Batch]:
        """Passes batches on and adds up the time that the loop waits for them. Closes `batches` when it is closed."""
        with closing_workers(batches):
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    def lap(self, step: int, batch_size: int) -> dict[str, float]:
        """The time/ keys of a log row; none for a window without a step, as after a resume."""
        steps = step - self._step
        if steps == 0:
            return {}
        seconds = time.perf_counter() - self._since
        return {
            "time/images_per_s": steps * batch_size / seconds,
            "time/data_s": self._waited / steps,
            "time/step_s": seconds / steps,
        }
