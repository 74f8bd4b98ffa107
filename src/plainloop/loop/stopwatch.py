"""Times of the open log window: steps, the wait for data in them, evaluations, and saving."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import torch

from plainloop.contracts import Batch


def closing_workers(batches: Iterator[Batch]) -> AbstractContextManager[Iterator[Batch]]:
    """Ends the data workers of an unfinished iteration; an iterator that is no generator has none."""
    return closing(batches) if isinstance(batches, Generator) else nullcontext(batches)


class Stopwatch:
    """Measures what the time of a run goes to: it is the sum over all rows of steps x time/step_s, time/eval_s and
    time/save_s, but for what is saved after the last row. time/data_s is a part of time/step_s.
    """

    def __init__(self, step: int) -> None:
        self._saved = 0.0
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
    def saving(self) -> Iterator[None]:
        """Counts the block as time/save_s of the next row, and not as time of steps."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began
            self._saved += time.perf_counter() - began

    def lap(self, step: int, batch_size: int) -> dict[str, float]:
        """The time/ keys of a log row; of a window without a step, as after a resume, there is no time per step."""
        saved, self._saved = {"time/save_s": self._saved}, 0.0
        steps = step - self._step
        if steps == 0:
            return saved
        seconds = time.perf_counter() - self._since
        if torch.cuda.is_initialized():  # rank 0's device, the most at once so far; reading it is no wait
            saved["time/memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return saved | {
            "time/images_per_s": steps * batch_size / seconds,
            "time/data_s": self._waited / steps,
            "time/step_s": seconds / steps,
        }
