"""A disk that is really full: a small tmpfs that only the test's own processes see."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.status import read_status
from tests.harness import inject
from tests.harness.children import Ended
from tests.harness.runs import SMALL, differences, lines, remains, train

RUN = (*SMALL, "hydra.run.dir=run")
NAMESPACES = "--mount" if os.geteuid() == 0 else "--mount --map-root-user"


@dataclass(frozen=True)
class Disk:
    """Mounted in the namespaces of a process that does nothing else."""

    pid: int
    folder: Path

    @property
    def seen(self) -> Path:
        """The folder as those see it who are outside."""
        return Path(f"/proc/{self.pid}/root{self.folder}")

    def enter(self) -> None:
        for kind in ("user", "mnt"):
            ours, theirs = Path(f"/proc/self/ns/{kind}"), Path(f"/proc/{self.pid}/ns/{kind}")
            if os.readlink(ours) == os.readlink(theirs):
                continue
            descriptor = os.open(theirs, os.O_RDONLY)
            assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) == 0, os.strerror(ctypes.get_errno())
            os.close(descriptor)
        os.chdir(self.folder)

    def train(self, outside: Path, prepare: Callable[[], Any] = lambda: None) -> Ended:
        def enter_and_prepare() -> None:
            self.enter()
            prepare()

        return train(outside, *RUN, prepare=enter_and_prepare)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = f"mount -t tmpfs -o size=4m none '{folder}' && echo mounted && exec sleep 600"
    holder = subprocess.Popen(["unshare", *NAMESPACES.split(), "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "mounted\n"
        yield Disk(holder.pid, folder)
    finally:
        holder.kill()
        holder.wait()


def fill() -> None:
    with open("ballast", "wb", buffering=0) as ballast:
        for size in (4096, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def empty() -> None:
    os.unlink("ballast")


def test_what_cannot_be_saved_is_saved_later(
    disk: Disk, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    def full_for_a_while() -> None:
        inject.at_step(6, fill)()
        inject.at_step(9, empty)()

    ended = disk.train(tmp_path, full_for_a_while)
    assert ended.code == 0, ended.err
    said = ended.out + ended.err
    assert "disk full" in said and "needed, 0 bytes free" in said and "training goes on" in said
    run = disk.seen / "run"
    assert [row["step"] for row in lines(run / "events.jsonl") if row["kind"] == "save_failed"] in ([6, 8], [])
    assert [name for name in differences(undisturbed(), remains(run)) if name != "rows"] == []


def test_what_must_be_saved_ends_the_run_and_the_same_command_goes_on_when_there_is_room(
    disk: Disk, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    ended = disk.train(tmp_path, inject.at_step(8, fill))
    run = disk.seen / "run"
    told = read_status(run)
    assert (ended.code, told.state, told.reason) == (73, "FAILED", "cannot_write"), ended.err
    assert "disk full" in ended.err and "next: make room in" in ended.err
    before = Checkpoints(run / "checkpoints").newest()
    assert before is not None and before.step == 6
    assert not list(run.rglob("*.tmp"))
    (disk.seen / "ballast").unlink()
    again = disk.train(tmp_path)
    assert again.code == 0, again.err
    assert differences(undisturbed(), remains(run)) == []
