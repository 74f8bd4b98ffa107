"""Standard streams that are closed or full, folders that are no place for a run, disks without room for a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.check.machine import folder_can_be_written
from plainloop.errors import CannotWrite
from plainloop.system import storage
from tests.harness.children import Child
from tests.harness.configs import ROOT
from tests.harness.disks import disk
from tests.harness.runs import SMALL, train


def closed() -> None:
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None  # as Python starts with closed ones


def full() -> None:
    for descriptor in (1, 2):
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)


RUN = (*SMALL, "hydra.run.dir=run")


@pytest.mark.parametrize(
    ("screen", "typed"),
    [(closed, RUN), (full, RUN), (full, ("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=run")), (full, ("--help",))],
)
def test_a_screen_that_nobody_reads_changes_nothing(
    screen: Callable[[], None], typed: tuple[str, ...], tmp_path: Path
) -> None:
    done = train(tmp_path, *typed, prepare=screen)
    assert (done.code, done.out, done.err) == (0, "", "")
    states = [json.loads(path.read_text())["state"] for path in tmp_path.rglob("status.json")]
    assert states == ["DONE"] * (2 if "-m" in typed else typed == RUN)


def test_a_shell_that_closes_the_streams_gets_the_same(tmp_path: Path) -> None:
    line = f"{sys.executable} {ROOT}/train.py --version"
    for redirected in (">&- 2>&- <&-", ">/dev/full"):
        assert subprocess.run(["bash", "-c", f"{line} {redirected}"], capture_output=True, timeout=300).returncode == 0


def test_a_command_whose_reader_is_gone_ends_well_and_without_a_word(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has its lines
    command = [sys.executable, str(ROOT / "scripts/explain.py"), "optimizer.lr"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_working_directory_that_is_gone_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = train(tmp_path / "gone", *RUN, prepare=(tmp_path / "gone").rmdir)
    assert done.code == CannotWrite.code
    assert done.err.splitlines()[0] == "the working directory is not there any more"
    assert len(done.err.splitlines()) == 2


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
    config = {"data": {"root": str(places["data"])}}

    def found(folder: Path) -> list[str]:
        context = CheckContext(config, folder=folder, is_typed=lambda key: key == "hydra.run.dir")
        return [f"{one.key}: {one.what}" for one in folder_can_be_written(context) if isinstance(one, Finding)]

    (what,) = found(places[name])
    assert what.startswith(f"hydra.run.dir: {message}")
    assert found(places["data"].parent / "new") == []


def test_a_path_above_the_systems_limit_has_one_message(places: dict[str, Path]) -> None:
    done = train(places["data"].parent, f"hydra.run.dir={places['longer']}")
    assert done.code == 64 and "Traceback" not in done.err
    assert "hydra.run.dir: is longer than 3900 bytes" in done.err


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
