"""A fault at any file operation of a save leaves a folder that gives back the last committed state, or the new one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plainloop.errors import CannotWrite
from plainloop.loggers.jsonl import Jsonl
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.status import read_status
from plainloop.system import storage
from tests.harness.children import Child
from tests.harness.saved import best_of

OPERATIONS = {"close", "fsync", "ftruncate", "listdir", "lseek", "makedirs", "open", "pread", "read", "rename"}
OPERATIONS |= {"statvfs", "unlink", "write"}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EINTR": errno.EINTR}


class Faulty:
    """The module os, with one fault at the n-th file operation."""

    def __init__(self, n: int, fault: str) -> None:
        self.n, self.fault, self.count, self.hit = n, fault, 0, ""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.wrap(name, real) if name in OPERATIONS else real

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **settings: Any) -> Any:
            self.count += name == "write" or self.fault not in ("short", "torn")
            if self.count != self.n or self.hit:
                return real(*arguments, **settings)
            self.hit = name
            if self.fault in ERRORS:
                if name == "close":
                    real(*arguments)
                raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]))
            half = [arguments[0], arguments[1][: len(arguments[1]) // 2]] if name == "write" else arguments
            if self.fault == "torn":
                real(*half)
            if self.fault in ("torn", "kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*half, **settings)  # short

        return operation


def encode(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode()


def checkpoints(run: Path) -> Checkpoints:
    return Checkpoints(run / "checkpoints", serialise=encode, parse=json.loads)


@contextmanager
def using(system: Any) -> Iterator[None]:
    """Storage calls this instead of the module os."""
    storage.os = system
    try:
        yield
    finally:
        storage.os = os


def state(step: int) -> dict[str, Any]:
    return {"step": step, "filling": "x" * 500}


@pytest.fixture
def before(folder: Path) -> Path:
    """A run with the checkpoints 1 (the best), 2 and 3."""
    run = folder / "before"
    for step in (1, 2, 3):
        checkpoints(run).save(state(step), step=step, best=step == 1, metric="val/top1", value=0.5)
    journal = Journal(run)
    with journal.locked():
        journal.begin(3, total=9)
    return run


def save_4(run: Path, system: Any) -> bool:
    """What surrounds a save that is the best one and makes two others superfluous; whether it succeeded."""
    journal = Journal(run)
    journal._row = dict(storage.read_json(run / "status.json") or {})
    failure = None
    with using(system):
        try:
            checkpoints(run).save(state(4), step=4, best=True, metric="val/top1", value=0.6)
        except CannotWrite as error:
            failure = error
            journal.event("save_failed", why=str(error))
        assert failure is None or f"({errno.errorcode[failure.__cause__.errno]})" in str(failure)
        journal.running(4, 9, checkpoint="step_00000004.pt")
        journal.event("saved", step=4)
        journal.end("PREEMPTED", reason="preempted", hint="python train.py resume=x", exit_code=75)
    return failure is None


def count_operations(before: Path, run: Path, fault: str) -> int:
    shutil.copytree(before, run)
    system = Faulty(-1, fault)
    assert save_4(run, system)
    shutil.rmtree(run)
    return system.count


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EDQUOT", "EINTR", "short", "kill", "torn"])
def test_a_fault_at_any_operation_leaves_the_last_or_the_new_state(before: Path, folder: Path, fault: str) -> None:
    run = folder / "run"
    operations = count_operations(before, run, fault)
    hits: Counter[str] = Counter()
    for n in range(1, operations + 1):
        shutil.copytree(before, run)
        system = Faulty(n, fault)
        if fault in ("kill", "torn"):
            done = Child(lambda: save_4(run, system)).wait().code == 0  # noqa: B023
            hits["killed"] += not done
        else:
            done = save_4(run, system)
            hits[system.hit] += 1
        if fault in ("EINTR", "short"):
            assert done, f"operation {n}: a signal or a short write is no failure"

        found = checkpoints(run).newest()
        assert found is not None
        assert found.state == state(found.step)
        assert found.step in ((4,) if done else (3, 4))
        best = best_of(checkpoints(run))
        assert best == (4 if found.step == 4 else 1)
        assert read_status(run).state in (("PREEMPTED",) if done else ("PREEMPTED", "LOST", "RUNNING"))

        again = checkpoints(run)
        again.sweep()
        again.save(state(5), step=5)
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names(best, found.step, 5)
        shutil.rmtree(run)
    assert sum(hits.values()) >= {"short": 5, "torn": 5}.get(fault, 45), hits


def names(*steps: int) -> list[str]:
    return sorted({"best.json", *(f"step_{step:08d}.{end}" for step in steps for end in ("pt", "json"))})


def test_a_writer_that_overwrites_in_place_is_found_by_these_faults(folder: Path) -> None:
    path = folder / "last.pt"
    lost = 0
    for n in (1, 2, 3):
        path.write_bytes(encode(state(3)))

        def overwrite(system: Any = Faulty(n, "torn")) -> None:  # noqa: B008
            descriptor = system.open(path, os.O_WRONLY | os.O_TRUNC)
            system.write(descriptor, encode(state(4)))
            system.close(descriptor)

        Child(overwrite).wait()
        lost += path.read_bytes() not in (encode(state(3)), encode(state(4)))
    assert lost == 1


def test_a_full_disk_is_said_with_numbers(folder: Path) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def statvfs(self, path: Path) -> Any:
            return type("Found", (), {"f_blocks": 9, "f_bavail": 300, "f_frsize": 1000, "f_files": 0})

    with using(Full()), pytest.raises(CannotWrite, match=r"disk full: 1\.2 MB needed, 300\.0 kB free at .* \(ENOSPC\)"):
        storage.write_whole(folder / "file", bytes(1_200_000))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o077])
def test_nobody_else_may_write_what_a_run_writes(folder: Path, umask: int) -> None:
    run, old = folder / "run", os.umask(umask)
    try:
        run.mkdir()
        with Journal(run).locked():
            checkpoints(run).save(state(1), step=1, best=True)
            Journal(run).event("saved")
            Jsonl().start(run, {}, 0)
    finally:
        os.umask(old)
    assert [path for path in [run, *run.rglob("*")] if path.stat().st_mode & 0o022] == []


def test_disk_use_stays_within_bounds_over_100_kills(folder: Path) -> None:
    """keep_last + the best + one that is being written, whatever was left by the lives before."""
    run, size = folder / "run", len(encode(state(1)))
    step, kills = 0, 0
    most = 0
    while kills < 100:

        def life(first: int = step + 1, n: int = 10 + kills * 7 % 83) -> None:
            storage.os = Faulty(n, "kill")  # in a process that is killed
            kept = checkpoints(run)
            kept.newest()
            kept.sweep()
            for number in range(first, first + 9):
                kept.save(state(number), step=number, best=number % 3 == 0, metric="m", value=number / 1000)

        kills += Child(life).wait().code == -signal.SIGKILL
        data = [path for path in (run / "checkpoints").glob("*.pt*") if path.stat().st_size >= size // 2]
        data += [path for path in (run / "checkpoints").glob(".*.pt*") if path.stat().st_size >= size // 2]
        most = max(most, len(data))
        found = checkpoints(run).newest()
        step = max(step, found.step) if found else step
        assert found is None or found.step == step
    checkpoints(run).sweep()
    assert most <= 2 + 1 + 1
    assert [path.name for path in (run / "checkpoints").iterdir() if ".tmp" in path.name] == []
