"""Images of any size in a frame of one size: resized by one factor, in the top left, with grey to the right and below.

So a place in the file, times the factor, is the place in the frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.data.boxes.sides import Size, factor_of, frame_of
from plainloop.data.loading.decode import at_most

GREY = 127


def scaled(length: int, factor: float) -> int:
    """Whole pixels of a side in the frame. Boxes are multiplied by the exact factor nevertheless."""
    return max(1, round(length * factor))


def letterbox(image: Tensor, frame: Size, *, of: Size | None = None) -> tuple[Tensor, float]:
    """(3, H, W) uint8 -> (3, *frame) uint8, and the factor.

    of: height and width of the file, where the image is a smaller copy of it; the factor is that of the file.
    """
    height, width = of or (image.shape[-2], image.shape[-1])
    factor = factor_of(height, width, frame)
    rows, columns = scaled(height, factor), scaled(width, factor)
    resized = image if image.shape[-2:] == (rows, columns) else F.resize(image, [rows, columns], antialias=True)
    if (rows, columns) == frame:
        return resized, factor
    # Rows of one channel one after the other, as batches have them, so that putting images together only copies.
    whole = torch.full((len(image), *frame), GREY, dtype=image.dtype)
    whole[:, :rows, :columns] = resized
    return whole, factor


def letterboxed(image: Tensor, *, sides: Size, shorter_side: int | None = None) -> Tensor:
    """The image alone, for `Preprocessing`; shorter_side: what a cache makes of it first."""
    height, width = image.shape[-2:]
    frame = frame_of(sides, tall=height > width)
    return letterbox(at_most(image, shorter_side=shorter_side), frame, of=(height, width))[0]
