"""Runs in forks of this process: by a command line or by a checked config. And what they leave on disk."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainloop.commands.train import main
from plainloop.run.run import run
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness.children import Child, Ended
from tests.harness.configs import ROOT
from tests.harness.tensors import equal

# Five steps an epoch; the log, a save and the end of an epoch fall on different steps.
SMALL = (
    "model.width=4",
    "data.batch_size=240",
    "trainer.duration=10st",
    "trainer.log_every=3",
    "trainer.save_every=2st",
    "scheduler=constant",
    "optimizer=sgd",
    "report=never",
)
# The laws of the loop hold for each of these: data, model and task of the smallest training in which something is
# drawn. Five steps an epoch, of a batch that three micro-batches or two ranks with two of them can share.
TASKS: dict[str, tuple[str, ...]] = {
    "classification": (
        *("model.width=4", "model.drop_rate=0.2", "augment=crop_flip", "augment.crop.pad=1", "data.batch_size=240"),
    ),
    "segmentation": (
        *("task=segmentation", "data=digit_scenes", "model=tiny_seg", "augment=segmentation", "model.width=4"),
        *("data.num_train=62", "data.num_val=7", "data.image_size=32", "data.batch_size=12", "task.losses.dice=1.0"),
        *("task.class_weights=[0.3,1,1,1,1,1]",),
    ),
    "detection": (
        *("task=detection", "data=digit_boxes", "model=yolov3", "augment=segmentation", "model.backbone=tiny"),
        *("model.width=4", "data.num_train=62", "data.num_val=7", "data.image_size=32", "data.batch_size=12"),
    ),
}
by_task = pytest.mark.parametrize("task", TASKS)
# What has a state of its own beside the weights.
STATEFUL = ("trainer.clip_norm=1.0", "trainer.ema_decay=0.95")
Prepare = Callable[[], Any]  # called in the new process before the run begins


def start(cwd: Path, *arguments: str, prepare: Prepare = lambda: None) -> Child:
    """`python train.py <arguments>` in the folder."""

    def typed() -> None:
        sys.argv = ["train.py", *arguments]
        tempfile.tempdir = None  # read from the environment again
        prepare()
        main(ROOT / "conf")

    return Child(typed, cwd=cwd)


def train(cwd: Path, *arguments: str, prepare: Prepare = lambda: None) -> Ended:
    return start(cwd, *arguments, prepare=prepare).wait()


def start_config(config: dict[str, Any], folder: Path, *, prepare: Prepare = lambda: None) -> Child:
    """The run of a checked config, without a command line."""
    return Child(lambda: (prepare(), run(config, folder)))


def status(folder: Path) -> dict[str, Any]:
    """status.json as it is; {} before there is any."""
    with contextlib.suppress(FileNotFoundError):
        return dict(json.loads((folder / "status.json").read_text()))
    return {}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def remains(folder: Path) -> dict[str, Any]:
    """What a run leaves that must not depend on what happened to it: the state, the log but for the clock, weights."""
    loaded = Checkpoints(folder / "checkpoints").newest()
    assert loaded is not None
    best = json.loads((folder / "checkpoints" / "best.json").read_text())
    best.pop("file")  # a step that is saved once more, with its evaluation, has another name
    return {
        "state": loaded.state,
        "rows": without_time(lines(folder / "metrics.jsonl")),
        "best": best,
        "best.safetensors": (folder / "best.safetensors").read_bytes(),
        "last.safetensors": (folder / "last.safetensors").read_bytes(),
    }


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of what is not equal to the last bit."""
    found = []
    for key in one.keys() | other.keys():
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += differences(mine, theirs, f"{prefix}{key}.")
        elif type(mine) is not type(theirs) or not equal(mine, theirs):
            found.append(f"{prefix}{key}")
    return sorted(found)
