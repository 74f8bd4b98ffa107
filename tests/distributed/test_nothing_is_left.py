"""Run after run after run, two at once: no file, no process, no shared memory and no port stays behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plainloop.run_dir.status import read_status
from tests.harness import ranks
from tests.harness.configs import checked
from tests.harness.disks import Disk, disk
from tests.harness.pictures import command, write_pictures
from tests.harness.runs import start


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test, and nobody else, make their temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture
def own_memory() -> Iterator[Disk]:
    """Shared memory of this test's runs alone."""
    with disk(Path("/dev/shm"), size="256m") as made:
        yield made


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def left_in(*folders: Path) -> list[str]:
    return [path.name for folder in folders for path in folder.iterdir()]


def test_some_runs_leave_nothing(tmp_path: Path, own_tmp: Path, own_memory: Disk) -> None:
    """In pairs, so that they would clash if they could."""
    config = checked("model.width=4", "data.batch_size=120", "trainer.duration=1ep", "device=cpu")
    files = open_files()
    for number in range(2):
        folders = [tmp_path / f"{number}{name}" for name in "ab"]
        pairs = [ranks.start_run(config, folder, 2, prepare=own_memory.enter) for folder in folders]
        for pair in pairs:
            assert ranks.wait(pair) == [0, 0]
    assert open_files() == files
    assert left_in(own_tmp, own_memory.seen) == []


def processes_of(mark: str) -> list[str]:
    """Living processes whose environment holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_30_runs_leave_nothing(
    tmp_path: Path, own_tmp: Path, own_memory: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ranks have data workers, which hand over batches in shared memory."""
    monkeypatch.setenv("MARK", f"plainloop-test-{os.getpid()}")
    words = (*command(write_pictures(tmp_path / "pictures")), "data.batch_size=4", "data.num_workers=1")
    folders = [tmp_path / str(number) for number in range(30)]
    for pair in zip(folders[::2], folders[1::2]):
        for folder in pair:
            folder.mkdir()
        runs = [start(folder, *words, "trainer.devices=2", prepare=own_memory.enter) for folder in pair]
        assert [run.wait().code for run in runs] == [0, 0]
    assert {read_status(folder / "run").state for folder in folders} == {"DONE"}
    assert processes_of(f"plainloop-test-{os.getpid()}") == []
    assert left_in(own_tmp, own_memory.seen) == []


def test_what_is_left_would_be_noticed(tmp_path: Path, own_tmp: Path, own_memory: Disk) -> None:
    name, config = f"MARK=plainloop-test-{os.getpid()}", checked("trainer.duration=1st", "device=cpu")

    def careless() -> None:
        own_memory.enter()
        Path("/dev/shm/left").touch()

    assert ranks.wait(ranks.start_run(config, tmp_path / "run", 1, prepare=careless)) == [0]
    assert left_in(own_tmp, own_memory.seen) == ["left"]
    assert not Path("/dev/shm/left").exists()
    sleeper = subprocess.Popen(["sleep", "60"], env=dict([name.split("=")]))
    try:
        assert processes_of(name) == ["sleep 60 "]
    finally:
        sleeper.kill()
        sleeper.wait()
