"""train.py as a shell would start it, in a fork of this process: torch is imported already, all else happens anew."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plainloop.commands.train import main
from tests.harness.configs import ROOT

# Five steps an epoch; the log, a save and the end of an epoch fall on different steps.
SMALL = (
    "model.width=4",
    "data.batch_size=240",
    "trainer.duration=10st",
    "trainer.log_every=3",
    "trainer.save_every=2st",
    "scheduler=constant",
    "optimizer=sgd",
)
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Ended:
    code: int  # minus the signal that ended it
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return (self.err.strip() or self.out.strip()).splitlines()[-1]


class Life:
    """A process that runs `python train.py <arguments>` in the folder, alone in its process group.

    Args:
        prepare: called in the new process before train.py is.
    """

    def __init__(self, cwd: Path, *arguments: str, prepare: Callable[[], Any] | None = None) -> None:
        self.cwd = cwd
        self._out, self._err = (cwd / f".{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        self.code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._be(arguments, prepare)

    def _be(self, arguments: tuple[str, ...], prepare: Callable[[], Any] | None) -> None:
        code: Any = 99
        try:
            os.setsid()
            os.chdir(self.cwd)
            faulthandler.disable()  # pytest's, which writes where pytest does
            for descriptor, path in ((1, self._out), (2, self._err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            logging.getLogger().handlers.clear()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["train.py", *arguments]
            if prepare:
                prepare()
            main(ROOT / "conf")
            code = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException:  # noqa: BLE001  # a shell sees nothing else of it
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code or 0)

    def kill(self, number: int, *, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code is not None

    def until(self, condition: Callable[[], Any]) -> bool:
        """Waits for the condition or for its end; whether the condition came about."""
        begun = time.monotonic()
        while not condition():
            if self.poll():
                return bool(condition())
            assert time.monotonic() - begun < TIMEOUT_S, "it takes too long"
            time.sleep(0.002)
        return True

    def wait(self) -> Ended:
        begun = time.monotonic()
        while not self.poll():
            if time.monotonic() - begun > TIMEOUT_S:
                self.kill(signal.SIGKILL, group=True)
            time.sleep(0.002)
        assert self.code is not None
        return Ended(self.code, self._out.read_text(), self._err.read_text())


def train(cwd: Path, *arguments: str, prepare: Callable[[], Any] | None = None) -> Ended:
    return Life(cwd, *arguments, prepare=prepare).wait()


def status(folder: Path) -> dict[str, Any]:
    """What is on disk, as it is; {} before there is any."""
    with contextlib.suppress(FileNotFoundError):
        return dict(json.loads((folder / "status.json").read_text()))
    return {}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def children_of(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_bytes().rpartition(b")")[2].split()[1]) == pid:
                yield int(path.parent.name)


torch.set_num_threads(1)  # before anything forks
