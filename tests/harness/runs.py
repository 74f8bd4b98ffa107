"""Processes that begin a run and are ended in the middle of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Life = Callable[[Path, Callable[[], None]], None]


def child(work: Callable[[], None]) -> int:
    """A forked process that does the work and leaves without another word."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


@contextmanager
def trains(folder: Path, life: Life) -> Iterator[int]:
    """A process in the middle of its life, that has said so; killed at the end if it is still there."""
    read, write = os.pipe()
    pid = child(lambda: life(folder, lambda: os.write(write, b".") and None))
    os.close(write)
    assert os.read(read, 1) == b".", "the process died before it trained"
    os.close(read)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def dead(folder: Path, life: Life, number: int = signal.SIGKILL) -> None:
    with trains(folder, life) as pid:
        os.kill(pid, number)
        os.waitpid(pid, 0)
