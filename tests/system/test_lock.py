"""One process at a time trains in a folder, whatever ended the one before."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plainloop.errors import Locked
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.status import read_status
from plainloop.system import lock
from tests.harness.children import Child, at_work, killed_at_work


def race(folder: Path, results: int, gate: int, *, flock: Any) -> None:
    os.read(gate, 1)
    word = "no word"
    try:
        with lock.holding(folder, flock=flock):
            os.write(results, f"{os.getpid()} trains\n".encode())
            time.sleep(3 * lock.READER_S)
        return
    except Locked as error:
        word = str(error).replace("\n", " ")
    os.write(results, f"{os.getpid()} {word}\n".encode())


def no_flock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def free_for_all(descriptor: int, operation: int) -> None:
    """A broken lock."""


def winners(folders: list[Path], flock: Any) -> list[tuple[int, int]]:
    """(how many trained, how many named the one who does) for two that start at once in each folder."""
    for folder in folders:
        folder.mkdir()
    read, write = os.pipe()
    gate, opened = os.pipe()
    racers = {folder: [Child(lambda: race(folder, write, gate, flock=flock)) for _ in range(2)] for folder in folders}  # noqa: B023
    os.write(opened, b"." * 2 * len(folders))
    for both in racers.values():
        for child in both:
            child.wait()
    os.close(write)
    said = dict(line.split(" ", 1) for line in os.fdopen(read).read().splitlines())
    found = []
    for both in racers.values():
        pids = [child.pid for child in both]
        won = [pid for pid in pids if said[str(pid)] == "trains"]
        named = [
            pid
            for pid in pids
            if won and "trains in " in said[str(pid)] and f": pid {won[0]} on {socket.gethostname()}" in said[str(pid)]
        ]
        found.append((len(won), len(named)))
    return found


@pytest.mark.parametrize("flock", [lock.fcntl.flock, no_flock], ids=["flock", "lease"])
def test_of_two_that_start_at_once_one_trains_and_the_other_names_it(tmp_path: Path, flock: Any) -> None:
    folders = [tmp_path / str(number) for number in range(20)]
    assert winners(folders, flock) == [(1, 1)] * 20


def test_a_broken_lock_lets_both_train(tmp_path: Path) -> None:
    assert winners([tmp_path / "run"], free_for_all) == [(2, 0)]


@pytest.mark.parametrize("flock", [lock.fcntl.flock, no_flock], ids=["flock", "lease"])
def test_a_dead_holder_does_not_hold(tmp_path: Path, flock: Any) -> None:
    def hold(folder: Path, ready: Callable[[], None]) -> None:
        with Journal(folder, flock=flock).locked():
            ready()
            time.sleep(60)

    with at_work(hold, tmp_path), pytest.raises(Locked, match=r"another process trains in .*: pid \d+ on .* since 20"):
        Journal(tmp_path, flock=flock).locked().__enter__()
    killed_at_work(hold, tmp_path)
    with Journal(tmp_path, flock=flock).locked():
        assert read_status(tmp_path).state == "RUNNING"


def test_a_lease_that_nobody_renews_is_void(tmp_path: Path) -> None:
    lease = tmp_path / "run.lease"
    lease.write_text(json.dumps({"pid": 1, "host": "node17", "boot_id": "x", "since": 0}))
    os.utime(lease, (time.time() - lock.LEASE_S / 2,) * 2)
    with pytest.raises(Locked, match="pid 1 on node17"):
        Journal(tmp_path, flock=no_flock).locked().__enter__()
    os.utime(lease, (time.time() - lock.LEASE_S * 2,) * 2)
    with Journal(tmp_path, flock=no_flock).locked():
        Journal(tmp_path, flock=no_flock).running(1, 2)
        assert json.loads(lease.read_text())["pid"] == os.getpid()
    assert not lease.exists()


def test_a_forked_worker_does_not_keep_the_lock_of_its_dead_trainer(tmp_path: Path) -> None:
    def with_a_worker(folder: Path, ready: Callable[[], None]) -> None:
        with Journal(folder).locked():
            worker = Child(lambda: time.sleep(30))
            (folder / "worker").write_text(str(worker.pid))
            ready()
            time.sleep(60)

    killed_at_work(with_a_worker, tmp_path)
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, 0)
    with Journal(tmp_path).locked():
        os.kill(worker, signal.SIGKILL)


@contextmanager
def somebody() -> Iterator[tuple[Child, dict[str, Any]]]:
    """A process of its own group, and what a file that names it truly would hold."""
    read, write = os.pipe()
    child = Child(lambda: (os.write(write, b"."), time.sleep(60)))
    try:
        os.read(read, 1)
        yield child, lock.this_process() | {"pid": child.pid, "pid_start": lock._start(child.pid)}
    finally:
        child.kill(signal.SIGKILL)
        child.wait()


def test_only_a_pid_whose_start_time_matches_is_alive() -> None:
    with somebody() as (child, who):
        assert lock.is_alive(who) is True
        wrong = {"pid_start": "1"}, {"pid": -child.pid}, {"pid": 0}, {"pid": str(child.pid)}, {"pid": True}
        assert [lock.is_alive(who | change) for change in (*wrong, {"pid": 2**70}, {"pid": None})] == [False] * 7
        assert lock.is_alive(who | {"host": "elsewhere"}) is None
    assert lock.is_alive(who) is False


def test_a_file_cannot_name_a_process_that_is_not_at_work_there(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    with somebody() as (child, who):
        assert not lock.stop(tmp_path, who)
        (tmp_path / "run.lock").unlink()
        (tmp_path / "run.lock").symlink_to("/dev/null")  # which it has open
        assert not lock.stop(tmp_path, who) and not child.has_ended()
        os.kill(child.pid, signal.SIGTERM)  # what believing the file would do
        assert child.wait().code == -signal.SIGTERM


def test_the_process_that_holds_the_lock_is_told_to_stop(tmp_path: Path) -> None:
    def hold(folder: Path, ready: Callable[[], None]) -> None:
        with lock.holding(folder):
            ready()
            time.sleep(60)

    with at_work(hold, tmp_path) as child:
        assert lock.stop(tmp_path, json.loads((tmp_path / "run.lock").read_text()))
        assert child.wait().code == -signal.SIGTERM
