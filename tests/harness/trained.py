"""Runs of a few steps for what is done with trained models: one of each kind of results."""

from __future__ import annotations

from pathlib import Path

from tests.harness.photos import write_photographs
from tests.harness.runs import train

QUICK = ("device=cpu", "trainer.duration=4st", "data.batch_size=8", "optimizer=sgd", "report=never")
DETECTOR = ("data=digit_boxes", "data.num_train=8", "data.num_val=8", "task=detection", "model=yolov3")
RUNS: dict[str, tuple[str, ...]] = {
    "photos": ("data=image_folder", "data.root=set", "data.image_size=32", "data.num_workers=0", "model.width=4"),
    "digits": ("model.width=4", "optimizer.lr=0.3"),
    "masks": (
        *("data=digit_scenes", "data.num_train=8", "data.num_val=8", "task=segmentation"),
        *("model=tiny_seg", "model.width=4"),
    ),
    "boxes": (*DETECTOR, "model.backbone=tiny", "model.width=4"),
    "timms": ("model=timm", "model.model_name=test_resnet"),
}


def train_runs(place: Path, *names: str) -> Path:
    """Folders with these names in `place`, and the photographs of `photos` in its folder `set`; gives `place`."""
    if "photos" in names:
        write_photographs(place / "set", per_class=8)
    for name in names:
        words = [word.replace("data.root=", f"data.root={place}/") for word in RUNS[name]]
        ended = train(place, *QUICK, *words, f"hydra.run.dir={name}")
        assert ended.code == 0, ended.err
    return place
