"""A folder of small photographs, so that workers have something to decode."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image


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


def command(root: Path) -> tuple[str, ...]:
    """Four steps an epoch, every picture decoded and augmented in the workers."""
    return (
        "data=image_folder",
        f"data.root={root}",
        "data.image_size=16",
        "data.batch_size=9",
        "augment=standard",
        "model.width=4",
        "scheduler=constant",
        "optimizer=sgd",
        "optimizer.lr=0.01",
        "trainer.duration=16st",
        "trainer.log_every=3",
        "trainer.save_every=2st",
        "hydra.run.dir=run",
    )
