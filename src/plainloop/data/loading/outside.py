"""Images that are not of the data set, as its evaluation would see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.contracts import Preprocessing
from plainloop.data.loading.decode import at_most, to_rgb, upright

LUMA = (19595, 38470, 7471)  # Pillow's parts of red, green and blue in grey, of 65536; equal ones give themselves


def of_picture(picture: Image.Image) -> Tensor:
    """(3, H, W) uint8, the pixels that `decode` gives for the picture's file."""
    return torch.from_numpy(np.array(to_rgb(upright(picture)))).permute(2, 0, 1)


def as_it_is(image: Tensor) -> Tensor:
    return image


def after_a_cache(image: Tensor, *, shorter_side: int | None, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """A cache resizes an image before evaluation does."""
    return prepare(at_most(image, shorter_side=shorter_side))


def of_shape(image: Tensor, *, image_shape: Sequence[int]) -> Tensor:
    """(3, H, W) uint8 resized whole to image_shape (C, H', W'); grey where that has one channel."""
    image = grey(image) if image_shape[0] == 1 else image
    return F.resize(image, list(image_shape[1:]), antialias=True)


def grey(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (1, H, W) uint8, as Pillow does it."""
    weights = torch.tensor(LUMA, dtype=torch.int32).view(3, 1, 1)
    return ((image.int() * weights).sum(0, keepdim=True, dtype=torch.int32) + 32768 >> 16).to(torch.uint8)


def of_any_source(image_shape: Sequence[int]) -> Preprocessing:
    """For a data source that says nothing else. Raises ValueError for channels that no image file has."""
    if image_shape[0] not in (1, 3):
        raise ValueError(
            f"the data set's images have {image_shape[0]} channels, and image files give 1 or 3; its data source can "
            "say how they are read: see PreparesImages in contracts.py"
        )
    return Preprocessing(partial(of_shape, image_shape=tuple(image_shape)))
