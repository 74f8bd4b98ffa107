"""Folders of small pictures, so that workers have something to decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from tests.harness.annotated import as_coco, write_coco, write_images


def write_pictures(root: Path, *, classes: int = 3, per_class: int = 12, size: int = 16) -> Path:
    generator = torch.Generator().manual_seed(1)
    for split, count in (("train", per_class), ("val", 3)):
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                image = torch.randint(0, 200, (3, size, size), generator=generator) + 20 * label
                Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    return root


def write_masked(root: Path, *, size: int = 16) -> Path:
    """36 pictures to train on and 9 to validate on, each with a mask of three classes and some pixels of none."""
    generator = torch.Generator().manual_seed(1)
    for split, count in (("train", 36), ("val", 9)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            mask = torch.randint(0, 4, (4, 4), generator=generator).repeat_interleave(size // 4, 0)
            mask = mask.repeat_interleave(size // 4, 1)
            image = torch.randint(0, 120, (3, size, size), generator=generator) + 40 * mask
            Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy()).save(root / f"images/{split}/{number}.png")
            classes = torch.where(mask == 3, 255, mask).to(torch.uint8)
            Image.fromarray(classes.numpy()).save(root / f"masks/{split}/{number}.png")
    return root


def write_boxed(root: Path) -> Path:
    """36 pictures to train on and 9 to validate on, each with no, one or two boxes of two classes."""
    for split, count in (("train", 36), ("val", 9)):
        two = {
            f"{number}.png": [("cat", (number % 9, 5, 20 + number, 30)), ("dog", (30, 20, 25, 35))]
            for number in range(count)
        }
        scenes = {name: objects[: number % 3] for number, (name, objects) in enumerate(two.items())}
        write_images(root / split, tuple(scenes))
        write_coco(root / split / "_annotations.coco.json", as_coco(scenes))
    return root


# Who writes the pictures of each task, and what a run on them is told.
TASKS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "classification": (write_pictures, ("data=image_folder", "augment=standard")),
    "segmentation": (
        write_masked,
        ("task=segmentation", "data=mask_folder", "data.num_classes=3", "model=tiny_seg", "augment=segmentation"),
    ),
    "detection": (
        write_boxed,
        ("task=detection", "data=coco", "model=yolov3", "model.backbone=tiny", "augment=segmentation"),
    ),
}


def written(root: Path, task: str = "classification") -> tuple[str, ...]:
    """The command for new pictures of this task."""
    return command(TASKS[task][0](root), task)


def command(root: Path, task: str = "classification") -> tuple[str, ...]:
    """Four steps an epoch, every picture decoded and augmented in the workers."""
    return (
        *TASKS[task][1],
        f"data.root={root}",
        "data.image_size=16",
        "data.batch_size=9",
        "model.width=4",
        "scheduler=constant",
        "optimizer=sgd",
        "optimizer.lr=0.01",
        "trainer.duration=16st",
        "trainer.log_every=3",
        "trainer.save_every=2st",
        "hydra.run.dir=run",
    )
