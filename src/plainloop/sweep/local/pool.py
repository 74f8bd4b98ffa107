"""Runs side by side on one machine, each in a fork of this process, which has imported what they need.

A fork starts in milliseconds; a new interpreter would import torch for seconds. Forking works as long as this process
has not initialised CUDA and has started no threads.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from plainloop.sweep.job import Job, leave_quietly
from plainloop.system import storage
from plainloop.system.processes import num_cpus
from plainloop.system.signals import SIGNALS, signals_collected

POLL_S = 0.02


@dataclass
class Pool:
    """Slots for jobs. `run(job)` is called in the fork and returns the job's exit code.

    Args:
        slots: for each job that runs at the same time, the GPUs that it sees; an empty list hides all GPUs.
        quiet: whether what a job prints goes to its log file instead of the screen.
        limit_gpus: False leaves CUDA_VISIBLE_DEVICES as it is.
    """

    slots: Sequence[Sequence[str]]
    run: Callable[[Job], int]
    quiet: bool = False
    limit_gpus: bool = True
    started: Callable[[Job], None] = lambda job: None
    ended: Callable[[Job, int], None] = lambda job, code: None
    codes: dict[int, int] = field(default_factory=dict)  # by job number; 128 + signal for one that was killed
    stopped_by: str = ""  # name of the signal that ended the sweep early

    def run_all(self, jobs: Sequence[Job]) -> dict[int, int]:
        """Starts the jobs in order, the next as one ends. How one job ends does not affect the others.

        A signal is passed on to the running jobs, and no further job starts.
        """
        waiting, free, running = list(jobs), list(range(len(self.slots))), dict[int, tuple[Job, int]]()
        num_passed_on = 0
        with signals_collected() as received:
            while running or (waiting and not received):
                while waiting and free and not received:
                    job, slot = waiting.pop(0), free.pop(0)
                    self.started(job)
                    running[self._fork(job, self.slots[slot])] = job, slot
                while num_passed_on < len(received):
                    num_passed_on += 1
                    _pass_on(received[:num_passed_on], running)
                ended = [(pid, status) for pid in running if (status := _wait_status(pid)) is not None]
                for pid, status in ended:
                    job, slot = running.pop(pid)
                    free.append(slot)
                    code = os.waitstatus_to_exitcode(status)
                    self.codes[job.number] = code if code >= 0 else 128 - code
                    self.ended(job, self.codes[job.number])
                if not ended:
                    time.sleep(POLL_S)
        self.stopped_by = received[0].name if received else ""
        return self.codes

    def _fork(self, job: Job, gpus: Sequence[str]) -> int:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Blocked until the run has its own handlers, so that none is lost and none calls the handlers of this process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return pid
        code = 70
        try:
            os.setsid()  # the terminal's Ctrl-C comes from us alone; if we are killed, jobs continue
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
            if self.limit_gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            _share_threads(len(self.slots), job.num_processes)
            if self.quiet:
                _print_into(job)
            code = self.run(job)
            leave_quietly()
        except BaseException:  # noqa: BLE001  # nothing of a fork may return into the frames of its parent
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(code)


def _pass_on(received: Sequence[signal.Signals], pids: Iterable[int]) -> None:
    """Sends the last signal to the jobs, once each kind; the second SIGINT aborts them unsaved, a third kills them."""
    number, count = received[-1], received.count(received[-1])
    if count > 1 and number != signal.SIGINT:
        return
    for pid in pids:
        os.kill(pid, signal.SIGKILL if count > 2 else number)


def _wait_status(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return status if ended else None


def _share_threads(num_jobs: int, num_processes: int) -> None:
    """Divides the CPU among jobs that run at the same time, unless OMP_NUM_THREADS sets the threads of each."""
    if num_jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cpus() // num_jobs // num_processes)))


def _print_into(job: Job) -> None:
    """Sends all output to the job's log file, also that of C code which crashes."""
    job.folder.mkdir(parents=True, exist_ok=True)
    descriptor = storage.open_file(job.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.close(descriptor)
