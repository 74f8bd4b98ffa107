"""An evaluation gives what training measured, to the last digit; comparisons are of the same samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from plainloop.run_dir.evaluation import read_evaluation
from tests.harness.commands import passed
from tests.harness.configs import ROOT
from tests.harness.evaluating import (
    CLASSES,
    MASKS,
    evaluate,
    folder_of_images,
    measured_by,
    results,
    rows,
    told,
    trained,
)
from tests.harness.ranks import start_run, wait
from tests.harness.tensors import equal


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "classes", *CLASSES)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "masks", *MASKS)


@pytest.mark.parametrize("kind", ["classes", "masks"])
@pytest.mark.parametrize(("split", "key"), [("val", "val/"), ("train", "train_eval/")])
def test_it_gives_what_training_measured_to_the_last_digit(
    kind: str, split: str, key: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(kind)
    ended = evaluate(f"run={run}", f"split={split}", "checkpoint=last", "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert "the run itself measured the same, to the last digit" in ended.out
    found, step = results(tmp_path), {"classes": 10, "masks": 4}[kind]
    before = measured_by(run, step, key)
    assert before and {name: found["metrics"][name] for name in before} == before
    assert found["step"] == step
    for name in ("loss", *before):
        low, high = found["intervals"][name]
        assert low <= found["metrics"][name] <= high
    earlier = measured_by(run, step // 2, key)
    assert {name: found["metrics"][name] for name in earlier} != earlier  # the control


def test_every_sample_has_a_row_and_the_rows_have_the_metrics_as_mean(classes: Path, tmp_path: Path) -> None:
    assert evaluate(f"run={classes}", "--out", tmp_path).code == 0
    found, table = results(tmp_path), rows(tmp_path)
    assert [int(row["index"]) for row in table] == list(range(359)) and found["num_samples"] == 359
    right = [row["label"] == row["predicted"] for row in table]
    assert sum(right) / 359 == found["metrics"]["top1"] == sum(float(row["top1"]) for row in table) / 359
    assert sum(float(row["loss"]) for row in table) / 359 == pytest.approx(found["metrics"]["loss"], rel=1e-6)
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum() == 359 and confusion.diagonal().sum() == sum(right)
    of_class = {name: found["metrics"][f"accuracy/{name}"] for name in found["class_names"]}
    assert of_class["3"] == confusion[3, 3] / confusion[3].sum()


def test_the_confusion_of_masks_counts_pixels(masks: Path, tmp_path: Path) -> None:
    ended = evaluate(f"run={masks}", "--out", tmp_path)
    found, confusion = results(tmp_path), torch.tensor(results(tmp_path)["confusion"])
    assert found["metrics"]["pixel_accuracy"] == float(confusion.diagonal().sum() / confusion.sum().double())
    assert "confusion matrix, pixels, percent of the class" in ended.out
    assert {"index", "miou", "pixel_accuracy"} <= rows(tmp_path)[0].keys()


@pytest.mark.parametrize("overrides", [CLASSES, MASKS], ids=["classes", "masks"])
def test_a_run_of_two_ranks_is_measured_by_one_process_up_to_the_order_of_sums(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """Batches are cut otherwise: the last bits of float32 differ, and a count where two logits are that near."""
    run = tmp_path / "run"
    run.mkdir()
    config = passed(*overrides, "device=cpu", ranks=2).config
    assert wait(start_run(config, run, 2)) == [0, 0]
    assert evaluate(f"run={run}", "checkpoint=last", "--out", tmp_path).code == 0
    found = results(tmp_path)
    before = measured_by(run, found["step"], "val/")
    assert {name: found["metrics"][name] for name in before} == pytest.approx(before, rel=1e-5)


def test_a_run_that_kept_nothing_of_its_best_evaluation_gets_what_its_report_reads(
    classes: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(classes, tmp_path / "run"))
    kept = read_evaluation(run)
    shutil.rmtree(run / "evaluation")
    assert evaluate(f"run={run}").code == 0
    again = read_evaluation(run)
    assert kept is not None and again is not None and (kept.step, kept.columns) == (again.step, again.columns)
    assert {name: again.metrics[name] for name in kept.metrics} == kept.metrics
    assert np.array_equal(kept.samples, again.samples) and equal(dict(kept.worst), dict(again.worst))


def test_the_results_lie_in_the_runs_folder_by_split_and_checkpoint_and_changes(classes: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(classes, tmp_path / "run"))
    for words in ([], ["checkpoint=10", "split=train"], ["data.val.batch_size=50"]):
        assert evaluate(f"run={run}", *words).code == 0
    names = sorted(path.name for path in (run / "evaluation").iterdir() if path.is_dir())
    assert names[0] == "train_10" and names[1] == "val_best" and names[2].startswith("val_best_") and len(names) == 3


def test_a_run_of_early_code_is_evaluated(tmp_path: Path) -> None:
    golden = Path(shutil.copytree(ROOT / "tests/lifecycle/golden_run/sweep/0", tmp_path / "run"))
    ended = evaluate(f"run={golden}", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    before = measured_by(golden, 20, "val/")
    # Of another machine.
    assert results(tmp_path / "out")["metrics"]["loss"] == pytest.approx(before["loss"], rel=1e-5)


# Comparisons


def test_runs_are_compared_on_the_same_samples_and_paired(classes: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "other", *CLASSES, "seed=1", "optimizer.lr=0.5")
    ended = evaluate(f"run={classes},{other}", "checkpoint=last", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    one, two = (results(tmp_path / f"out/{name}_val_last") for name in ("classes", "other"))
    assert found["metrics"] == [one["metrics"], two["metrics"]]
    value, low, high = found["differences"][0]["top1"]
    assert value == two["metrics"]["top1"] - one["metrics"]["top1"] and low < value < high
    same = evaluate(f"run={classes},{classes}", "checkpoint=last", "--out", tmp_path / "same")
    assert same.code == 0, same.err
    of_itself = json.loads((tmp_path / "same/comparison.json").read_text())["differences"][0]
    assert of_itself["top1"] == of_itself["loss"] == [0.0, 0.0, 0.0]


@pytest.mark.slow
def test_runs_that_held_out_other_images_are_not_compared(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    words = ("data=image_folder", f"data.root={root}", "data.image_size=16", "data.batch_size=4", "data.num_workers=0")
    tiny = ("model.width=4", "trainer.duration=2st", "optimizer=sgd", "scheduler=constant", "device=cpu")
    runs = [
        trained(tmp_path / f"run{fraction}", *words, *tiny, f"data.val_fraction=0.{fraction}") for fraction in (2, 4)
    ]
    ended = evaluate(f"run={runs[0]},{runs[1]}")
    assert ended.code == 64
    assert f"{runs[0]} has 4 and {runs[1]} has 8" in ended.err
    assert "next: evaluate both on the same data: add data=... data.root=..., and split=test" in ended.err
    ended = evaluate(f"run={runs[0]},{runs[1]}", "data.val_fraction=0.2", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    (place,) = (tmp_path / "out").glob("run2_val_best_*")
    assert rows(place)[0]["file"].startswith("cat/")


def test_views_of_masks_are_those_of_the_task_itself(masks: Path, tmp_path: Path) -> None:
    ended = evaluate(f"run={masks}", "tta=flip,multi_scale", "--out", tmp_path / "views")
    assert ended.code == 0 and "cost of tta=flip,multi_scale: 6 x the forward passes" in ended.out, ended.err
    typed = ("task.tta_flip=true", "task.tta_scales=[0.75,1.0,1.25]")
    assert evaluate(f"run={masks}", *typed, "--out", tmp_path / "typed").code == 0
    (place,) = (tmp_path / "views").glob("*_flip_multi_scale")
    assert results(place)["metrics"] == results(tmp_path / "typed")["metrics"]
    told(evaluate(f"run={masks}", "tta=crops"), 64, "tta=crops is nothing that this task can average")
