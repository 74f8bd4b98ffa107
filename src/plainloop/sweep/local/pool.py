"""Runs side by side on one machine, each in a fork of this process, which has imported what they need and nothing more.

A fork starts in milliseconds where a new interpreter would import torch for seconds. It is possible as long as this
process has neither woken CUDA nor started threads.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType

from plainloop.sweep.job import Job, leave_quietly
from plainloop.system.processes import num_cpus
from plainloop.system.signals import SIGNALS

POLL_S = 0.02


@dataclass
class Pool:
    """Places for jobs. `run(job)` is what the fork does; it gives the job's exit code.

    Args:
        places: for each job that runs at the same time, the GPUs that it sees; an empty list leaves it none that
            others were given.
        quiet: whether what a job prints goes to its log file instead of the screen.
        limit_gpus: False leaves CUDA_VISIBLE_DEVICES as it is.
    """

    places: Sequence[Sequence[str]]
    run: Callable[[Job], int]
    quiet: bool = False
    limit_gpus: bool = True
    started: Callable[[Job], None] = lambda job: None
    ended: Callable[[Job, int], None] = lambda job, code: None
    codes: dict[int, int] = field(default_factory=dict)  # by job number; 128 + signal for one that was killed
    stopped_by: str = ""  # name of the signal that ended the sweep early

    def run_all(self, jobs: Sequence[Job]) -> dict[int, int]:
        """Starts the jobs in order, the next as one ends. A signal is passed on once; then nothing is started any more.

        One job's end, whatever it is, concerns no other.
        """
        waiting, free, running = list(jobs), list(range(len(self.places))), dict[int, tuple[Job, int]]()
        with _Forwarded() as signals:
            while waiting or running:
                while waiting and free and not signals.seen:
                    job, place = waiting.pop(0), free.pop(0)
                    self.started(job)
                    running[self._fork(job, self.places[place])] = job, place
                signals.pass_on(running)
                if signals.seen and not running:
                    break
                ended = [(pid, status) for pid in running if (status := _ended(pid)) is not None]
                for pid, status in ended:
                    job, place = running.pop(pid)
                    free.append(place)
                    code = os.waitstatus_to_exitcode(status)
                    self.codes[job.number] = code if code >= 0 else 128 - code
                    self.ended(job, self.codes[job.number])
                if not ended:
                    time.sleep(POLL_S)
        self.stopped_by = signals.seen[0] if signals.seen else ""
        return self.codes

    def _fork(self, job: Job, gpus: Sequence[str]) -> int:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Signals wait until the run has its own handlers: none is lost, and none meets this process's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return pid
        code = 70
        try:
            os.setsid()  # Ctrl-C comes from us alone, and once; where we are killed, jobs go on
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
            if self.limit_gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            _share_threads(len(self.places), job.num_processes)
            if self.quiet:
                _print_into(job)
            code = self.run(job)
            leave_quietly()
        except BaseException:  # noqa: BLE001  # nothing of a fork may return into the frames of its parent
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(code)


class _Forwarded:
    """Inside its block SIGINT, SIGTERM and SIGUSR2 are noted; `pass_on` sends each to the jobs, once.

    A second SIGINT is one more for the jobs, which then abort without saving; a third kills them.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._passed = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> _Forwarded:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def pass_on(self, pids: Sequence[int] | dict[int, tuple[Job, int]]) -> None:
        while self._passed < len(self.seen):
            name = self.seen[self._passed]
            self._passed += 1
            again = self.seen[: self._passed].count(name)
            if again > 1 and name != "SIGINT":
                continue
            for pid in pids:
                os.kill(pid, signal.SIGKILL if again > 2 else signal.Signals[name])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen.append(signal.Signals(number).name)


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return status if found else None


def _share_threads(num_jobs: int, num_processes: int) -> None:
    """Divides the CPU among jobs that run at the same time, unless the person has said how many threads each takes."""
    if num_jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cpus() // num_jobs // num_processes)))


def _print_into(job: Job) -> None:
    """Whatever is printed, also by C code that dies, ends up in the job's log file."""
    job.folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(job.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.close(descriptor)
