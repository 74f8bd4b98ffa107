"""Real photographs in any size, from those that are part of scikit-learn."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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
