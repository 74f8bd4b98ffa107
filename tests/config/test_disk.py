"""What a refused command leaves behind: nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.system import storage
from tests.harness.commands import ROOT


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("hydra.run.dir=plain/deep/run", "hydra.run.dir: "),
        ("-m seed=1,2 hydra.sweep.dir=link", "hydra.sweep.dir: "),
        ("resume=plain", "resume: plain is no folder"),
        ("hydra.job.name=a/b", "hydra.job.name: is no file name"),
        ("-m seed=1,2 hydra.sweeper=${nothing}", "hydra.sweeper: Interpolation key 'nothing' not found"),
        ("logger=[[1]]", "logger: there is no option [1]"),
    ],
)
def test_a_refused_command_ends_with_64_and_writes_nothing(tmp_path: Path, typed: str, words: str) -> None:
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    command = [sys.executable, str(ROOT / "train.py"), *typed.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 64, done.stderr
    assert words in done.stderr
    assert done.stderr.count("given by:") == 1
    assert sorted(os.listdir(tmp_path)) == ["link", "plain"]


@pytest.mark.parametrize("name", ["absent", "plain/below", "x" * 300])
def test_where_no_file_can_be_there_are_no_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").write_text("")
    assert storage.read_lines(tmp_path / name) == []
