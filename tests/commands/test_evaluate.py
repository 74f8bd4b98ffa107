"""An evaluation gives what training measured, to the last digit; comparisons are of the same samples; each wrong word
is told with what to type."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.commands.evaluate import main
from plainloop.run_dir.evaluation import read_evaluation
from plainloop.run_dir.weights import read_weights
from tests.harness.children import Child, Ended
from tests.harness.commands import passed
from tests.harness.configs import ROOT
from tests.harness.ranks import start_run, wait
from tests.harness.runs import lines, train
from tests.harness.tensors import equal

SMALL = ("model.width=4", "optimizer=sgd", "scheduler=constant", "trainer.duration=10st", "trainer.eval_every=5st")
CLASSES = (*SMALL, "data.batch_size=240", "trainer.ema_decay=0.9", "augment=crop_flip", "augment.crop.pad=1")
MASKS = (
    *("task=segmentation", "data=digit_scenes", "model=tiny_seg", "augment=segmentation", "data.batch_size=8"),
    *("data.num_train=16", "data.num_val=12", "data.image_size=32", "optimizer=sgd", "scheduler=constant"),
    *("trainer.duration=4st", "trainer.eval_every=2st"),
)


def evaluate(*words: object, cwd: Path | None = None, python_path: Path | None = None) -> Ended:
    """`python scripts/evaluate.py <words>`, in a process of its own: it sets torch's threads and switches."""

    def typed() -> None:
        if python_path:
            sys.path.insert(0, str(python_path))
        raise SystemExit(main(list(map(str, words))))

    return Child(typed, cwd=cwd).wait()


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open() as file:
        return list(csv.DictReader(file))


def trained(folder: Path, *overrides: str) -> Path:
    ended = train(folder.parent, *overrides, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "classes", *CLASSES)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "masks", *MASKS)


def measured_by(run: Path, step: int, split: str) -> dict[str, float]:
    (row,) = [row for row in lines(run / "metrics.jsonl") if row["step"] == step]
    return {name.removeprefix(split): value for name, value in row.items() if name.startswith(split)}


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


def folder_of_images(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), each: int = 10) -> Path:
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = torch.randint(0, 120, (20, 20, 3), generator=generator) + 100 * label
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / name / f"{number:03}.png")
    return root


def test_views_of_masks_are_those_of_the_task_itself(masks: Path, tmp_path: Path) -> None:
    ended = evaluate(f"run={masks}", "tta=flip,multi_scale", "--out", tmp_path / "views")
    assert ended.code == 0 and "cost of tta=flip,multi_scale: 6 x the forward passes" in ended.out, ended.err
    typed = ("task.tta_flip=true", "task.tta_scales=[0.75,1.0,1.25]")
    assert evaluate(f"run={masks}", *typed, "--out", tmp_path / "typed").code == 0
    (place,) = (tmp_path / "views").glob("*_flip_multi_scale")
    assert results(place)["metrics"] == results(tmp_path / "typed")["metrics"]
    told(evaluate(f"run={masks}", "tta=crops"), 64, "tta=crops is nothing that this task can average")


# Weights files


def test_a_weights_file_is_measured_with_the_model_and_data_that_are_typed(classes: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save({"state_dict": read_weights(classes / "last.safetensors")}, file)
    words = ("model.width=4", "data.batch_size=240")
    ended = evaluate(f"run={file}", *words, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert results(tmp_path / "out")["metrics"]["top1"] == measured_by(classes, 10, "val/")["top1"]
    told(evaluate(f"run={file}", "model.width=8", "--out", tmp_path / "out"), 64, "holds the weights of another model")
    shutil.copy(classes / "last.safetensors", tmp_path / "mine.safetensors")
    ended = evaluate(f"run={tmp_path / 'mine.safetensors'}", "model.width=8", "--out", tmp_path / "out")
    told(ended, 64, "holds the weights of another model", "next: the file says of its model: type model.width=4")


def test_a_file_in_a_runs_folder_stands_for_that_run(classes: Path, tmp_path: Path) -> None:
    for number, path in enumerate(("best.safetensors", "checkpoints/step_00000010.pt")):
        ended = evaluate(f"run={classes / path}", "--out", tmp_path / str(number))
        assert ended.code == 0, ended.err
    assert results(tmp_path / "1")["step"] == 10


# A task of a stranger

STRANGER = '''
import torch

class Bright:
    """Whether an image is brighter than another one of its class number: nothing that we know of."""

    monitor, mode = "error", "min"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def loss(self, model, batch):
        loss = (model(batch["image"]).mean(1) - batch["label"].float()).square().mean()
        return loss, {"loss": loss.detach()}

    def weight(self, batch):
        return batch["label"].new_full((), len(batch["label"]), dtype=torch.float32)

    def predict(self, model, batch):
        return {"score": model(batch["image"]).mean(1)}

    def metrics(self):
        return Error()


class Error:
    def __init__(self):
        self.sum, self.number = 0.0, 0

    def update(self, prediction, batch):
        self.sum = self.sum + (prediction["score"] - batch["label"]).abs().double().sum()
        self.number += len(batch["label"])

    def compute(self):
        return {"error": float(self.sum) / self.number}
'''


def test_a_strangers_task_is_evaluated_with_views_too(tmp_path: Path) -> None:
    package = tmp_path / "lent" / "strangers_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STRANGER)
    conf = tmp_path / "lent" / "conf"
    (conf / "task").mkdir(parents=True)
    (conf / "task" / "bright.yaml").write_text(
        "_target_: strangers_package.Bright\nnum_classes: ${facts.num_classes}\n"
    )
    words = (
        "--config-dir",
        str(conf),
        "plugins=[strangers_package]",
        "task=bright",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    ended = train(tmp_path, *CLASSES, *words, prepare=lambda: sys.path.insert(0, str(package.parent)))
    run = tmp_path / "run"
    assert ended.code == 0, ended.err
    ended = evaluate(f"run={run}", "--out", tmp_path)
    assert ended.code == 64 and "plugins=[strangers_package]" in ended.err
    allowed = ("plugins=[strangers_package]", "checkpoint=last")
    ended = evaluate(f"run={run}", *allowed, "--out", tmp_path / "plain", python_path=package.parent)
    assert ended.code == 0, ended.err
    found = results(tmp_path / "plain")
    assert found["metrics"] == measured_by(run, 10, "val/") and found["intervals"] == {}
    ended = evaluate(f"run={run}", *allowed, "tta=flip", "--out", tmp_path / "views", python_path=package.parent)
    assert ended.code == 0 and "cost of tta=flip: 2 x the forward passes" in ended.out, ended.err


# What goes wrong


def told(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err, ended.err


def test_wrong_words_are_told(classes: Path, tmp_path: Path) -> None:
    told(evaluate("run="), 64, "run= is missing", "type run=<run dir>")
    told(evaluate(classes), 64, "run= is missing", f"type run={classes}")
    told(evaluate(f"run={classes}", "--slipt=test"), 64, "--slipt=test changes nothing")
    if not torch.cuda.is_available():
        told(evaluate(f"run={classes}", "device=cuda"), 64, "torch sees no CUDA device; type device=cpu")
    told(evaluate(f"run={tmp_path / 'none'}"), 64, "does not exist")
    told(evaluate(f"run={classes}", "split=vall"), 64, "split=vall must be one of val, test, train, all")
    told(evaluate(f"run={classes}", "split=test"), 65, "no test split; it has train and val")
    told(evaluate(f"run={classes}", "tta=rotate"), 64, "tta=rotate: rotate is not known", "type tta=flip")
    told(evaluate(f"run={classes}", "optimizer.lr=1"), 64, "optimizer.lr=1 changes nothing when a run is evaluated")
    told(evaluate(f"run={classes}", "data.batchsize=1"), 64, "type instead: data.batch_size=1")
    told(evaluate(f"run={classes}", "checkpoint=7"), 64, "no checkpoint of step 7", "checkpoint=10")
    told(evaluate(f"run={classes}", "data.max_train_samples=0"), 64, "data.max_train_samples=0 must be at least")


def test_other_classes_are_told_by_name(tmp_path: Path) -> None:
    words = ("data=image_folder", "data.image_size=16", "data.batch_size=4", "data.num_workers=0")
    tiny = ("model.width=4", "trainer.duration=2st", "optimizer=sgd", "scheduler=constant", "device=cpu")
    root, other = folder_of_images(tmp_path / "a"), folder_of_images(tmp_path / "b", classes=("cat", "eel"))
    run = trained(tmp_path / "run", *words, f"data.root={root}", *tiny)
    ended = evaluate(f"run={run}", f"data.root={other}")
    told(ended, 64, "the data have 2 classes, and the run 2: only in the run: dog; only in the data: eel")
    shutil.move(root, tmp_path / "moved")
    told(evaluate(f"run={run}"), 64, f"data.root={root} does not exist")
    assert evaluate(f"run={run}", f"data.root={tmp_path / 'moved'}").code == 0
    shutil.copytree(tmp_path / "moved", tmp_path / "new/test")
    shutil.copytree(tmp_path / "moved", tmp_path / "new/train")
    ended = evaluate(f"run={run}", f"data.root={tmp_path / 'new'}", "split=test", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert results(tmp_path / "out")["num_samples"] == 20
    ended = evaluate(f"run={run}", f"data.root={tmp_path / 'moved'}", "split=all", "--out", tmp_path / "all")
    assert ended.code == 0 and results(tmp_path / "all")["num_samples"] == 20
    few = folder_of_images(tmp_path / "few", each=2)  # the batches of the run are larger than such a training split
    ended = evaluate(f"run={run}", f"data.root={few}", "split=all", "--out", tmp_path / "of_few")
    assert ended.code == 0 and results(tmp_path / "of_few")["num_samples"] == 4, ended.err


def test_a_run_of_early_code_is_evaluated(tmp_path: Path) -> None:
    golden = Path(shutil.copytree(ROOT / "tests/lifecycle/golden_run/sweep/0", tmp_path / "run"))
    ended = evaluate(f"run={golden}", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    before = measured_by(golden, 20, "val/")
    # Of another machine.
    assert results(tmp_path / "out")["metrics"]["loss"] == pytest.approx(before["loss"], rel=1e-5)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told(evaluate(f"run={classes}", "--out", tmp_path / "file/out"), 73, "cannot write")


def test_images_of_a_size_that_the_model_does_not_take_are_told(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    words = ("data=image_folder", f"data.root={root}", "data.image_size=32", "data.batch_size=4", "data.num_workers=0")
    model = (
        "model=timm",
        "model.model_name=test_vit",
        "+model.img_size=32",
        "+model.dynamic_img_size=false",
        "trainer.duration=2st",
        "device=cpu",
    )
    run = trained(tmp_path / "run", *words, *model)
    hint = "take the size that it was trained with: leave out data.image_size, or tta=multi_scale"
    told(evaluate(f"run={run}", "data.image_size=48"), 64, "the model does not take images of 3x48x48: ", hint)
    told(evaluate(f"run={run}", "tta=multi_scale"), 64, "the model does not take images of 3x32x32", hint)
    assert evaluate(f"run={run}", "tta=flip,crops").code == 0
