"""Run after run after run, two at once: no file, no process, no shared memory and no port stays behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from plainloop.run_dir.status import read_status
from tests.distributed.test_ways_to_start import TRAIN, environment, finish, start
from tests.harness import leftovers, ranks
from tests.harness.configs import checked


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test, and nobody else, make their temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def forks(count: int, folder: Path) -> None:
    """Runs as forks of this process, in pairs, so that they would clash if they could."""
    config = checked("model.width=4", "data.batch_size=120", "trainer.duration=1ep", "device=cpu")
    for number in range(0, count, 2):
        pairs = [ranks.start_run(config, folder / str(number + other), 2) for other in range(2)]
        for pids in pairs:
            assert ranks.wait(pids) == [0, 0]


def test_some_runs_leave_nothing(tmp_path: Path, own_tmp: Path) -> None:
    files, before = leftovers.open_files(), leftovers.orphans()
    forks(4, tmp_path / "runs")
    assert leftovers.open_files() == files
    assert leftovers.new_orphans(before) == set()
    assert list(own_tmp.iterdir()) == []


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


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve of each of two classes, for ranks whose data workers hand them over in shared memory."""
    for split in ("train", "val"):
        for number in range(24):
            path = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(path)
    return tmp_path / "images"


@pytest.mark.slow
def test_30_runs_leave_nothing(tmp_path: Path, own_tmp: Path, images: Path) -> None:
    before, mark = leftovers.orphans(), f"plainloop-test-{os.getpid()}"
    data = ("data=image_folder", f"data.root={images}", "data.image_size=16", "data.batch_size=4", "data.num_workers=1")
    folders = [tmp_path / str(number) / "run" for number in range(30)]
    for number in range(0, 30, 2):
        pair = []
        for folder in folders[number : number + 2]:
            folder.parent.mkdir()
            pair.append(start(TRAIN, folder, environment(MARK=mark), "trainer.devices=2", *data))
        finish(*pair)
    assert {read_status(folder).state for folder in folders} == {"DONE"}
    assert processes_of(mark) == []
    assert leftovers.new_orphans(before) == set()
    assert list(own_tmp.iterdir()) == []


def test_what_is_left_would_be_noticed(own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE_S", 0.0)
    before, name = leftovers.orphans(), f"plainloop-test-{os.getpid()}"
    with (leftovers.SHARED / name).open("w"):
        assert leftovers.new_orphans(before) == set()  # in use: whose it is does not matter
    try:
        assert leftovers.new_orphans(before) == {name}
    finally:
        (leftovers.SHARED / name).unlink()
    sleeper = subprocess.Popen(["sleep", "60"], env=os.environ | {"MARK": name})
    try:
        assert processes_of(f"MARK={name}") == ["sleep 60 "]
    finally:
        sleeper.kill()
        sleeper.wait()
    assert processes_of(f"MARK={name}") == []
