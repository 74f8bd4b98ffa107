"""Real photographs in any size, from those that are part of scikit-learn; and small images with objects."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def original(name: str) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(name))


def photograph(size: tuple[int, int], *, name: str = "china.jpg") -> Image.Image:
    """(width, height) pixels from the middle."""
    image = original(name)
    left, top = (image.width - size[0]) // 2, max(0, (image.height - size[1]) // 2)
    return image.crop((left, top, left + size[0], top + size[1]))


def write_photographs(root: Path, *, classes: int = 2, per_class: int = 6) -> Path:
    """JPEGs of several sizes in class folders."""
    for number in range(classes * per_class):
        path = root / f"class_{number % classes}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        name = ("china.jpg", "flower.jpg")[number % 2]
        photograph((90 + 7 * (number % 12), 150 - 5 * (number % 12)), name=name).save(path, quality=90)
    return root


def write_wide_and_tall(root: Path) -> Path:
    """With objects, as COCO has them: 14 wide and 9 tall ones to train on, two and one to validate on."""
    wide, tall = (60, 80), (80, 60)  # height, width
    for split, heights_widths in {"train": [wide] * 14 + [tall] * 9, "val": [wide, tall, wide]}.items():
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for i, (height, width) in enumerate(heights_widths):
            pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
            annotations.append({"id": i + 1, "image_id": i, "category_id": i % 2, "bbox": [i, 5, 20, 30], "area": 600})
        content = {"categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "dog"))]}
        (root / f"{split}.json").write_text(json.dumps(content | {"images": images, "annotations": annotations}))
    return root
