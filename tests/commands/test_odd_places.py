"""Standard streams that are closed or full, folders that are no place for a run, disks without room for a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plainloop.errors import CannotWrite
from plainloop.system import storage
from tests.harness.children import Child
from tests.harness.configs import ROOT
from tests.harness.disks import disk
from tests.harness.runs import SMALL, status, train

TRAIN = f"{sys.executable} {ROOT}/train.py {' '.join(SMALL)} hydra.run.dir=run"


def typed(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=300)


def closed() -> None:
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python starts with closed ones


def full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


@pytest.mark.parametrize("screen", [closed, full])
def test_a_screen_that_nobody_reads_changes_nothing(screen: Callable[[], None], tmp_path: Path) -> None:
    done = train(tmp_path, *SMALL, "hydra.run.dir=run", prepare=screen)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert status(tmp_path / "run")["state"] == "DONE"
    for redirected in (">&-", ">&- 2>&- <&-", ">/dev/full", ">/dev/full 2>&1"):
        again = typed(tmp_path, f"{TRAIN} {redirected}")
        assert (again.returncode, again.stdout, again.stderr) == (0, "", ""), redirected


def test_a_working_directory_that_is_gone_is_said_in_one_line(tmp_path: Path) -> None:
    done = typed(tmp_path, f"mkdir gone && cd gone && rmdir ../gone && {TRAIN}")
    assert done.returncode == CannotWrite.code
    assert done.stderr.splitlines()[0] == "the working directory is not there any more"
    assert len(done.stderr.splitlines()) == 2


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("data", "data/cat", "run/checkpoints", "sweep")}
    for path in made.values():
        path.mkdir(parents=True, exist_ok=True)
    (made["run/checkpoints"] / "step_00000010.pt").touch()
    (made["sweep"] / "jobs.jsonl").touch()
    long = tmp_path.joinpath(*["abcdefghi"] * 405)
    return made | {"/": Path("/"), "clone": ROOT, "long": long, "longer": long.joinpath(*["abcdefghi"] * 50)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/", "is the whole file system"),
        ("clone", "is the folder of the code"),
        ("data", "is the folder of the data, data.root="),
        ("data/cat", "is the folder of the data, data.root="),
        ("run/checkpoints", "holds the checkpoints of the run "),
        ("sweep", "is the folder of a sweep"),
        ("long", "is longer than 3900 bytes"),
        ("longer", "is longer than 3900 bytes"),
    ],
)
def test_a_folder_that_is_no_place_for_a_run_is_refused(name: str, message: str, places: dict[str, Path]) -> None:
    data = places["data"]
    before = sorted(os.listdir(places[name])) if places[name].parts[-1] != "abcdefghi" else []
    done = train(data.parent, "data=image_folder", f"data.root={data}", f"hydra.run.dir={places[name]}")
    assert done.code == 64 and "Traceback" not in done.err
    assert f"hydra.run.dir: {message}" in done.err
    assert before == (sorted(os.listdir(places[name])) if before else [])


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_a_disk_without_inodes_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with disk(tmp_path / "disk", size="4m,nr_inodes=4") as made:

        def fill() -> None:
            made.enter()
            for number in range(5):
                storage.write_json(made.folder / f"{number}.json", {})

        ended = Child(fill).wait()
    assert ended.code == CannotWrite.code
    assert "no inodes left" in ended.err and "can hold no more than 4 files (ENOSPC)" in ended.err
    assert "disk full" not in ended.err
