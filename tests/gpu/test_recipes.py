"""Recipes at toy size: a call does what is left, writes what is done, and packs all that the next one needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.configs import ROOT
from tests.harness.runs import lines
from tests.test_recipes import write_fashion_mnist


def call(folder: Path, sweep: str, *more: str) -> dict[str, Any]:
    """The results of a call."""
    typed = [
        *("--device=cpu", "--minutes=5", "--jobs-per-gpu=1", "--recipe=fashion_mnist_resnet20"),
        *(f"--sweep={folder / sweep}", f"--results={folder / 'results'}", *more, f"data.root={folder / 'data'}"),
        *("model=tiny", "model.width=4", "data.batch_size=8", "trainer.duration=3ep", "scheduler.milestones=[1ep,2ep]"),
    ]
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "benchmarks/gpu_recipes.py", *typed]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads((folder / "results" / "recipes_cpu.json").read_text()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    write_fashion_mnist(tmp_path / "data", monkeypatch)
    return tmp_path


def test_what_is_done_is_written_and_an_archive_is_all_that_the_next_call_needs(folder: Path) -> None:
    archive = folder / "state.tar.gz"
    (first,) = call(folder, "one", "--seeds=1", f"--to={archive}")["results"]
    assert (first["recipe"], first["n"], first["published (%)"]) == ("fashion_mnist_resnet20", 1, 4.39)
    (second,) = call(folder, "other", "--seeds=2", f"--from={archive}")["results"]
    assert second["n"] == 2
    assert second["seeds"][0] == first["seeds"][0]
    assert len([row for row in lines(folder / "other" / "0" / "attempts.jsonl") if "started" in row]) == 1
    assert not list((folder / "other" / "0").rglob("*.pt"))  # of a run that is done no weights travel
    markdown = (folder / "results" / "recipes_cpu.md").read_text()
    assert "± " in markdown and "| fashion_mnist_resnet20 |" in markdown
