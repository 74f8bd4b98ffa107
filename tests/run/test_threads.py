"""threads=auto follows from the model and the CPUs alone, and a run keeps the number that it began with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plainloop.run.run import num_threads
from tests.harness.configs import checked


@pytest.mark.parametrize(
    ("model", "cpus", "threads"), [("tiny", "8", 1), ("resnet18", "8", 5), ("resnet18", "2", 2), ("resnet18", "1", 1)]
)
def test_auto_is_what_the_model_can_use_and_the_cpus_give(
    model: str, cpus: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", cpus)
    assert num_threads(checked(f"model={model}"), tmp_path) == threads


@pytest.mark.parametrize(("typed", "ranks", "threads"), [("auto", 1, 3), ("auto", 2, 1), ("4", 1, 4)])
def test_a_resume_keeps_the_number_unless_ranks_differ_or_another_one_is_typed(
    typed: str, ranks: int, threads: int, tmp_path: Path
) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({"threads": 3, "ranks": ranks}))
    assert num_threads(checked(f"threads={typed}"), tmp_path) == threads
