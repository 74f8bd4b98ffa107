"""TensorBoard's files, read back with its own reader: each point once, whatever happened to the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plainloop.loggers.jsonl import Jsonl
from plainloop.loggers.tensorboard import TensorBoard
from tests.harness import inject, runs

CONFIG = {"optimizer": {"lr": 0.1}, "data": {"batch_size": 64}, "seed": 3, "trainer": {"duration": "5ep"}, "model": {}}


def attempt(folder: Path, start: int, stop: int, *, ends: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    loggers: list[Any] = [Jsonl(), TensorBoard()]
    for logger in loggers:
        logger.start(folder, CONFIG, start)
    for step in range(start + 10, stop + 1, 10):
        for logger in loggers:
            logger.log(step, {"train/loss": 1 / step, "val/top1": float("nan")})
    summary = {"steps": stop, "best": {"value": 0.5}} if ends else {"steps": stop}
    for logger in loggers:
        logger.finish(summary)


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return [(event.step, round(event.value, 6)) for event in found.Scalars(tag)]


def test_every_row_is_there(tmp_path: Path) -> None:
    attempt(tmp_path / "run", 0, 50)
    assert points(tmp_path / "run", "train/loss") == [(step, round(1 / step, 6)) for step in range(10, 51, 10)]
    assert points(tmp_path / "run", "best") == [(50, 0.5)]


def test_after_a_resume_no_points_overlap(tmp_path: Path) -> None:
    attempt(tmp_path / "run", 0, 50, ends=False)
    attempt(tmp_path / "run", 30, 70)  # what came after the checkpoint of step 30 is void
    assert [step for step, _ in points(tmp_path / "run", "train/loss")] == [10, 20, 30, 40, 50, 60, 70]


def test_what_was_open_when_the_run_went_on_drops_the_void_points(tmp_path: Path) -> None:
    """A TensorBoard beside the run has read the first attempt already."""
    attempt(tmp_path / "run", 0, 50, ends=False)
    looking = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    looking.Reload()
    attempt(tmp_path / "run", 30, 40)
    looking.Reload()
    assert [event.step for event in looking.Scalars("train/loss")] == [10, 20, 30, 40]


def test_a_run_that_was_killed_has_the_points_of_one_that_was_not(tmp_path: Path) -> None:
    arguments = (*runs.SMALL, "logger=tensorboard")
    first, second = (tmp_path / name for name in ("undisturbed", "killed"))
    assert runs.train(tmp_path, *arguments, f"hydra.run.dir={first}").code == 0
    dies = inject.at_step(8, inject.send(9))
    assert runs.train(tmp_path, *arguments, f"hydra.run.dir={second}", prepare=dies).code == -9
    assert runs.train(tmp_path, *arguments, f"hydra.run.dir={second}").code == 0
    for tag in ("train/loss", "train/lr", "val/top1"):
        assert points(first, tag) == points(second, tag) != []


def test_settings_and_the_best_value_are_hyperparameters(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- optimizer=sgd\n- +model.width=8\n- hydra.job.name=x\n")
    attempt(folder, 0, 20)
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    settings = {key: getattr(value, value.WhichOneof("kind")) for key, value in shown.items()}
    assert settings == {
        "optimizer.lr": 0.1, "data.batch_size": 64, "seed": 3, "trainer.duration": "5ep", "optimizer": "sgd",
        "model.width": "8",
    }  # fmt: skip


def test_without_the_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plainloop.loggers.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard, or logger=jsonl"):
        TensorBoard()


def test_a_job_of_a_sweep_is_told_by_what_differs(tmp_path: Path) -> None:
    from plainloop.loggers.overrides import sweep_of, varied_overrides

    jobs = [["optimizer=sgd", f"seed={seed}", "name=x"] for seed in (0, 1)]
    rows = [{"number": n, "overrides": words, "folder": str(n)} for n, words in enumerate(jobs)]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    (tmp_path / "1" / ".hydra" / "overrides.yaml").write_text("- optimizer=sgd\n- seed=1\n- name=x\n")
    assert varied_overrides(tmp_path / "1") == ["seed=1"]
    assert sweep_of(tmp_path / "1") == tmp_path
    assert sweep_of(tmp_path) is None
