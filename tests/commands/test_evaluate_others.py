"""What no run of ours has left is evaluated, too: weights files, a task of a stranger; wrong words are told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from plainloop.run_dir.weights import read_weights
from tests.harness.evaluating import (
    CLASSES,
    evaluate,
    folder_of_images,
    measured_by,
    results,
    told,
    trained,
)
from tests.harness.runs import train


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "classes", *CLASSES)


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
    told(evaluate(f"run={classes}", "data.max_train_samples=0"), 64, "data.max_train_samples: must be at least")


def test_other_classes_are_told_by_name(tmp_path: Path) -> None:
    words = ("data=image_folder", "data.image_size=16", "data.batch_size=4", "data.num_workers=0")
    tiny = ("model.width=4", "trainer.duration=2st", "optimizer=sgd", "scheduler=constant", "device=cpu")
    root, other = folder_of_images(tmp_path / "a"), folder_of_images(tmp_path / "b", classes=("cat", "eel"))
    run = trained(tmp_path / "run", *words, f"data.root={root}", *tiny)
    ended = evaluate(f"run={run}", f"data.root={other}")
    told(ended, 64, "the data have 2 classes, and the run 2: only in the run: dog; only in the data: eel")
    shutil.move(root, tmp_path / "moved")
    told(evaluate(f"run={run}"), 64, f"data.root: does not exist, got {root}")
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
