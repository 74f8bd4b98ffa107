"""The signals that ask a run to stop, and how those are held back that must not meet it halfway."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)  # Slurm sends them to every process of a job


@contextmanager
def signals_blocked(numbers: Iterable[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Signals wait until after it; processes started inside are born with them blocked, and keep them so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
