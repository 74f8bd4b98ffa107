"""Makes a folder of JPEGs for the image-folder benchmark: python benchmarks/photographs.py <folder>

5,000 files of about 500 x 375 pixels and 60 kB in ten class folders, the same bytes on every machine with the same
Pillow. The pixels come from the two photographs that are part of scikit-learn: a random part of one, turned and tilted,
with a little noise. Such files cost as much to decode as photographs, which have detail everywhere.
"""

from __future__ import annotations

import argparse
import math
import random
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

COUNT, CLASSES = 5000, 10
SIZES = ((500, 375), (500, 375), (500, 333), (375, 500))  # width and height; ImageNet's files have such sizes
NOISE = 6.0  # standard deviation, of 255
QUALITY = 88  # gives about 60 kB with this noise


@cache
def originals() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def photograph(number: int) -> Image.Image:
    """Depends on `number` alone."""
    draw, source = random.Random(number), originals()[number % 2]
    width, height = SIZES[draw.randrange(len(SIZES))]
    side = draw.uniform(0.5, 0.9) * min(source.width / width, source.height / height)
    w, h = side * width, side * height
    left, top = draw.uniform(0, source.width - w), draw.uniform(0, source.height - h)
    corners = [(left, top), (left, top + h), (left + w, top + h), (left + w, top)]
    tilted = [
        (
            min(max(x + draw.gauss(0, 0.04) * w, 0), source.width),
            min(max(y + draw.gauss(0, 0.04) * h, 0), source.height),
        )
        for x, y in corners
    ]
    quad = [value for corner in tilted for value in corner]
    image = source.transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(number).normal(0, NOISE, (height, width, 3))
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))


def write(folder: Path, number: int) -> int:
    """The size of file `number` in bytes."""
    path = folder / f"class_{number % CLASSES}" / f"{number:05}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(number).save(path, quality=QUALITY)
    return path.stat().st_size


def write_all(folder: Path, count: int) -> list[int]:
    with ProcessPoolExecutor() as pool:
        return list(pool.map(partial(write, folder), range(count), chunksize=max(1, math.ceil(count / 100))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    sizes = write_all(arguments.folder, arguments.count)
    print(f"{len(sizes)} files in {arguments.folder}, {sum(sizes) / len(sizes) / 1000:.1f} kB each on average")


if __name__ == "__main__":
    main()
