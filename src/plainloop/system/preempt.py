"""A signal becomes a flag; the loop reads it between two steps."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from plainloop.system.signals import SIGNALS


class Preemption:
    """Inside its block, SIGTERM, SIGUSR2 and the first SIGINT set `requested` and nothing else.

    Signals that were blocked before (a launcher does that until there are these handlers) get through inside, and
    wait again after it. A second SIGINT aborts at once, as one expects of a second Ctrl-C. Forked children (data
    workers inherit the handler) ignore the signals: Slurm sends them to every process of a job.
    """

    def __init__(self) -> None:
        self.requested: str | None = None  # name of the first signal
        self._pid = os.getpid()
        self._before: dict[signal.Signals, object] = {}
        self._mask: set[signal.Signals] = set()

    def __enter__(self) -> Preemption:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        if number == signal.SIGINT and self.requested == "SIGINT":
            raise KeyboardInterrupt
        self.requested = self.requested or signal.Signals(number).name
