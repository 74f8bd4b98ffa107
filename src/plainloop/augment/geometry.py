"""Shifts and mirror images of whole batches, drawn for each image on the device that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.augment import draws, spatial
from plainloop.augment.settings import check_probability, filling, is_large_on_cpu
from plainloop.contracts import Batch


def pad_crop(batch: Batch, step: int, *, pad: int) -> Batch:
    """Shifts each image by up to `pad` pixels in either direction (https://arxiv.org/abs/1409.5185).

    New pixels at the edge are reflections (the paper: zeros). Shapes stay as they are.
    Raises ValueError when the image is not larger than `pad`, and for boxes and polygons: what is reflected has none.
    """
    spatial.refuse(batch, "pad_crop", spatial.OUTLINES)
    image = batch["image"]
    height, width = image.shape[-2:]
    if not 0 <= pad < min(height, width):
        raise ValueError(f"augment: pad={pad} must be at least 0 and less than the image, which is {height} x {width}")
    down, right = (draws.integers(batch, 2, 1, below=2 * pad + 1) - pad).unbind(1)
    rows = reflected(torch.arange(height, device=image.device) + down, height)
    columns = reflected(torch.arange(width, device=image.device) + right, width)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, H * W)

    def pixels(values: Tensor) -> Tensor:
        return values.flatten(2).gather(2, places[:, None].expand(-1, values.shape[1], -1)).view(values.shape)

    return spatial.moved(batch, pixels, points=lambda points: points)


def reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside 0, ..., size - 1 mirrored at the edge pixels, which are not repeated: -1 is 1."""
    return (size - 1) - ((size - 1) - position.abs()).abs()


def horizontal_flip(batch: Batch, step: int, *, p: float = 0.5) -> Batch:
    """Mirrors each image left to right with probability p."""
    return flip(batch, dimension=-1, p=p)


def vertical_flip(batch: Batch, step: int, *, p: float = 0.5) -> Batch:
    """Mirrors each image top to bottom with probability p: for images without a fixed top, such as aerial images."""
    return flip(batch, dimension=-2, p=p)


def flip(batch: Batch, *, dimension: int, p: float) -> Batch:
    check_probability(p)
    image = batch["image"]
    flipped = draws.chosen(batch, p)[:, None, None, None]
    side, axis = image.shape[dimension], -1 - dimension  # x is the first of a point

    def points(places: Tensor) -> Tensor:
        mirrored = places.clone()
        mirrored[..., axis] = side - places[..., axis]
        return torch.where(flipped[:, 0], mirrored, places)

    def pixels(values: Tensor) -> Tensor:
        if is_large_on_cpu(values):
            result = values.clone()
            for number in flipped.flatten().nonzero().flatten().tolist():
                result[number] = values[number].flip(dimension)
            return result
        mirrored = values.flip(dimension)
        return torch.where(flipped, mirrored, values, out=mirrored)  # on a CPU, new memory costs more than the copy

    return spatial.moved(batch, pixels, points)


def random_rotation(
    batch: Batch, step: int, *, degrees: float = 15.0, p: float = 1.0, fill: Sequence[float] = (0.0,)
) -> Batch:
    """Turns each image around its centre by an angle uniform in [-degrees, degrees], sampled bilinearly.

    Args:
        p: share of the images that are turned.
        fill: one number per channel in [0, 1], for what comes in from outside.
    """
    if not 0 <= degrees <= 180:
        raise ValueError(f"augment: degrees={degrees} must lie between 0 and 180")
    check_probability(p)
    image = batch["image"]
    height, width = image.shape[-2:]
    drawn = draws.uniform(batch, low=-math.radians(degrees), high=math.radians(degrees))
    angle = torch.where(draws.chosen(batch, p), drawn, 0.0).to(image.dtype)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # From places of the result to places of the image; both have edges at -1 and 1, whatever their length in pixels.
    turned = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turned, list(image.shape), align_corners=False)
    return spatial.resampled(batch, turned, size=(height, width), grid=grid, fill=filling(image, fill))
