"""Times of the open log window: steps, the wait for data in them, evaluations, and saving."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext

import torch
from torch.optim import Optimizer

from plainloop.contracts import Batch
from plainloop.loop.moments import HostMoments, StreamMoments


def closing_workers(batches: Iterator[Batch]) -> AbstractContextManager[Iterator[Batch]]:
    """Ends the data workers of an unfinished iteration; an iterator that is no generator has none."""
    return closing(batches) if isinstance(batches, Generator) else nullcontext(batches)


class Stopwatch:
    """Measures what the time of a run goes to: it is the sum over all rows of steps x time/step_s, time/eval_s and
    time/save_s, but for what is saved after the last row. time/data_s, time/prepare_s (copy, augmentation,
    normalization) and time/optimizer_s are parts of time/step_s; the rest of it is forward and backward pass.
    """

    def __init__(self, step: int, device: torch.device | None = None) -> None:
        self._saved = 0.0
        kind = device.type if device else ""
        self._moments: HostMoments | StreamMoments | None = None  # elsewhere kernels end at moments that nobody sees
        if kind in ("cpu", "cuda"):
            self._moments = HostMoments() if kind == "cpu" else StreamMoments()
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0
        if self._moments:
            self._moments.restart()

    def fetching(self, batches: Iterator[Batch], optimizer: Optimizer) -> Generator[Batch]:
        """Passes batches on and adds up the time that the loop waits for them. Closes `batches` when it is closed."""
        with closing_workers(batches), ExitStack() as hooks:
            if moments := self._moments:
                before = optimizer.register_step_pre_hook(lambda *_: moments.mark("update"))
                after = optimizer.register_step_post_hook(lambda *_: moments.mark("updated"))
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    return
                if self._moments:
                    self._moments.mark("fetched")
                yield batch

    def prepared(self, batch: Batch) -> Batch:
        """Passes on a batch that the model can have now."""
        if self._moments:
            self._moments.mark("prepared")
        return batch

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
            **(self._moments.parts(steps) if self._moments else {}),
        }
