"""Small image folders, written by the test that reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Photos = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """{"train/cat": 3} writes three images of different sizes into root/train/cat; returns the root."""

    def write(folders: Mapping[str, int]) -> Path:
        noise = np.random.default_rng(0)
        for folder, number in folders.items():
            (tmp_path / folder).mkdir(parents=True)
            for i in range(number):
                pixels = noise.integers(0, 256, (20 + 3 * i % 17, 24 + 5 * i % 13, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / f"{i:03}.png")
        return tmp_path

    return write
