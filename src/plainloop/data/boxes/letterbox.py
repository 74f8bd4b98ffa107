"""Images of any size in a square: resized by one factor, in the top left, with grey to the right and below.

So a place in the file, times the factor, is the place in the square.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.data.loading.decode import at_most

GREY = 127


def factor_of(height: int, width: int, size: int) -> float:
    """Pixels of the square for each of the image.

    >>> factor_of(480, 640, 416), factor_of(208, 104, 416)
    (0.65, 2.0)
    """
    return min(size / height, size / width)


def scaled(length: int, factor: float) -> int:
    """Whole pixels of a side in the square. Boxes are multiplied by the exact factor nevertheless."""
    return max(1, round(length * factor))


def letterbox(image: Tensor, size: int, *, of: tuple[int, int] | None = None) -> tuple[Tensor, float]:
    """(3, H, W) uint8 -> (3, size, size) uint8, and the factor.

    of: height and width of the file, where the image is a smaller copy of it; the factor is that of the file.
    """
    height, width = of or (image.shape[-2], image.shape[-1])
    factor = factor_of(height, width, size)
    rows, columns = scaled(height, factor), scaled(width, factor)
    resized = image if image.shape[-2:] == (rows, columns) else F.resize(image, [rows, columns], antialias=True)
    if rows == columns == size:
        return resized, factor
    # Rows of one channel one after the other, as batches have them, so that putting images together only copies.
    square = torch.full((len(image), size, size), GREY, dtype=image.dtype)
    square[:, :rows, :columns] = resized
    return square, factor


def letterboxed(image: Tensor, *, size: int, shorter_side: int | None = None) -> Tensor:
    """The image alone, for `Preprocessing`; shorter_side: what a cache makes of it first."""
    height, width = image.shape[-2:]
    return letterbox(at_most(image, shorter_side=shorter_side), size, of=(height, width))[0]
