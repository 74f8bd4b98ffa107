"""Forks of this process that each do one thing: torch is imported already, all else happens in their own process."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers and DDP import it when they are built: once here instead of in every fork

LONGEST_S = 300.0  # for anything that does not hang; the machine may be busy


@dataclass(frozen=True)
class Ended:
    code: int  # minus the signal that ended it
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return (self.err.strip() or self.out.strip()).splitlines()[-1]


class Child:
    """A fork in a process group of its own that calls `work` and exits.

    Its exit code is 0, the error's own code where it has one, or 1 after any other error, whose traceback is in `err`.
    """

    def __init__(self, work: Callable[[], Any], *, cwd: Path | None = None) -> None:
        self._ended: Ended | None = None
        self._files = [os.memfd_create(name) for name in ("out", "err")]
        self.pid = os.fork()
        if not self.pid:
            self._become(work, cwd)

    def _become(self, work: Callable[[], Any], cwd: Path | None) -> None:
        code: Any = 1
        try:
            os.setsid()
            os.chdir(cwd or Path.cwd())
            faulthandler.disable()  # pytest's, which writes where pytest does
            for descriptor, file in ((1, self._files[0]), (2, self._files[1])):
                os.dup2(file, descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            logging.getLogger().handlers.clear()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001  # nothing of a fork may come back into pytest
            code = getattr(error, "code", 1) or 0
            if not isinstance(error, SystemExit):
                sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def kill(self, number: int, *, group: bool = False) -> None:
        if self._ended is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    def has_ended(self) -> bool:
        """Reaps it then."""
        if self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
        return self._ended is not None

    def wait(self, timeout_s: float = LONGEST_S) -> Ended:
        """Waits for its end; what takes longer is killed with its process group."""
        if self._ended is None:
            end = os.pidfd_open(self.pid)
            if not select.select([end], [], [], timeout_s)[0]:
                self.kill(signal.SIGKILL, group=True)
            os.close(end)
            self._end(os.waitpid(self.pid, 0)[1])
        assert self._ended is not None
        return self._ended

    def until(self, condition: Callable[[], Any]) -> bool:
        """Waits for the condition or for its end; whether the condition came about."""
        begun = time.monotonic()
        while not condition():
            if self.has_ended():
                return bool(condition())
            assert time.monotonic() - begun < LONGEST_S, "it takes too long"
            time.sleep(0.002)
        return True

    def _end(self, status: int) -> None:
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in self._files)
        self._ended = Ended(os.waitstatus_to_exitcode(status), out, err)
        for file in self._files:
            os.close(file)


Work = Callable[[Path, Callable[[], None]], None]


@contextmanager
def at_work(work: Work, folder: Path) -> Iterator[Child]:
    """A child in the middle of `work(folder, ready)`, after its call of `ready`; killed at the end if it still runs."""
    read, write = os.pipe()
    child = Child(lambda: work(folder, lambda: os.write(write, b".") and None))
    os.close(write)
    said = os.read(read, 1)
    os.close(read)
    try:
        assert said == b".", child.wait().err
        yield child
    finally:
        child.kill(signal.SIGKILL)
        child.wait()


def killed_at_work(work: Work, folder: Path, number: int = signal.SIGKILL) -> None:
    """Starts such a child and ends it by a signal."""
    with at_work(work, folder) as child:
        child.kill(number)
        child.wait()


def wait_for(what: Callable[[], Any], seconds: float = LONGEST_S) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def runs(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children_of(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_bytes().rpartition(b")")[2].split()[1]) == pid:
                yield int(path.parent.name)


torch.set_num_threads(1)  # before anything forks
