"""Runs of a few steps for what is done with trained models: one of each kind of results."""

from __future__ import annotations

from pathlib import Path

from tests.harness.photos import write_photographs
from tests.harness.runs import train

FEW = ("trainer.duration=4st", "optimizer=sgd")
DETECTOR = ("data=digit_boxes", "data.num_val=8", "task=detection", "model=yolov3", "model.backbone=tiny")
RUNS: dict[str, tuple[str, ...]] = {
    "photos": (*FEW, "data=image_folder", "data.root=set", "data.image_size=32", "data.num_workers=0", "model.width=4"),
    "digits": (*FEW, "model.width=4", "optimizer.lr=0.3"),
    "masks": (
        *(*FEW, "data=digit_scenes", "data.num_train=8", "data.num_val=8", "task=segmentation"),
        *("model=tiny_seg", "model.width=4"),
    ),
    "boxes": (*FEW, *DETECTOR, "data.num_train=8", "model.width=4"),
    # Learns enough to find something.
    "detector": (*DETECTOR, "data.num_train=32", "optimizer=muon", "optimizer.lr=0.02", "trainer.duration=60st"),
    "timms": (*FEW, "model=timm", "model.model_name=test_resnet"),
}


def train_runs(place: Path, *names: str) -> Path:
    """Folders with these names in `place`, and the photographs of `photos` in its folder `set`; gives `place`."""
    if "photos" in names:
        write_photographs(place / "set", per_class=8)
    for name in names:
        words = [word.replace("data.root=", f"data.root={place}/") for word in RUNS[name]]
        ended = train(place, *words, "device=cpu", "data.batch_size=8", "report=never", f"hydra.run.dir={name}")
        assert ended.code == 0, ended.err
    return place
