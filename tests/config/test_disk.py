"""What is on the disk decides before anything is written there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.system import storage
from tests.harness.commands import ROOT, problems


@pytest.mark.parametrize(("key", "more"), [("hydra.run.dir", ()), ("hydra.sweep.dir", ("-m", "seed=1,2"))])
@pytest.mark.parametrize("where", ["plain", "plain/run", "plain/deep/run", "link"])
def test_a_folder_at_or_below_a_plain_file_is_refused_and_nothing_is_written(
    tmp_path: Path, key: str, more: tuple[str, ...], where: str
) -> None:
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    typed = [f"{key}={tmp_path / where}", *more]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *typed], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 64, done.stderr
    file = tmp_path / where.partition("/")[0]
    assert f"{key}: {file} is no folder, got {tmp_path / where}" in done.stderr
    assert f"given by: command line override {key}={tmp_path / where}" in done.stderr
    assert f"type instead: {key}=" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["link", "plain"]


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    found = problems(f"hydra.run.dir={tmp_path}/{'x' * 300}", folder=tmp_path / ("x" * 300))
    assert found.keys() == {"hydra.run.dir"}
    assert "255 bytes" in found["hydra.run.dir"].what


@pytest.mark.parametrize("name", ["absent", "plain/below", "x" * 300])
def test_where_no_file_can_be_there_are_no_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").write_text("")
    assert storage.read_lines(tmp_path / name) == []


def test_what_is_resumed_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "resume=plain"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 64, done.stderr
    assert "resume: plain is no folder" in done.stderr
    assert "given by: command line override resume=plain" in done.stderr
    assert os.listdir(tmp_path) == ["plain"]
