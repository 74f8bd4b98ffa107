"""The signals that ask a run to stop: SIGTERM and SIGUSR2 from Slurm, SIGINT from Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)  # Slurm sends them to every process of a job


@contextmanager
def signals_blocked(numbers: Iterable[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Signals wait until the block has ended; processes started inside it begin with them blocked, and keep them so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_handled(
    handle: Callable[[signal.Signals], None], numbers: Iterable[signal.Signals] = SIGNALS
) -> Iterator[None]:
    """Inside the block each signal calls `handle` and does nothing else; also those that were blocked before it.

    Forked children inherit the handlers and ignore the signals.
    """
    owner = os.getpid()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handle(signal.Signals(number))

    before = {number: signal.signal(number, on_signal) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_collected(numbers: Iterable[signal.Signals] = SIGNALS) -> Iterator[list[signal.Signals]]:
    """The signals that arrive inside the block, oldest first, for a parent that passes them on to its children."""
    received: list[signal.Signals] = []
    with signals_handled(received.append, numbers):
        yield received


class Preemption:
    """Inside its block a signal sets `requested`, which the loop reads between two steps.

    A second SIGINT raises KeyboardInterrupt at once, as people expect of a second Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested: str | None = None  # name of the first signal
        self._handling = signals_handled(self._on_signal)

    def __enter__(self) -> Preemption:
        self._handling.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handling.__exit__(kind, error, trace)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGINT and self.requested == "SIGINT":
            raise KeyboardInterrupt
        self.requested = self.requested or number.name
