"""Times of the open log window."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from plainloop.contracts import Batch


class Stopwatch:
    """Times of the open log window: per step, and waiting for data."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0

    def fetching(self, batches: Iterator[Batch]) -> Generator[Batch]:
        """Passes batches on and adds up how long they let us wait; closed, it closes what it was given."""
        try:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch
        finally:
            if isinstance(batches, Generator):
                batches.close()

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
