"""Shifts and mirror images of whole batches, drawn for each image on the device that holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from plainloop.contracts import Batch


def pad_crop(batch: Batch, step: int, *, pad: int) -> Batch:
    """Shifts each image by up to `pad` pixels in either direction (https://arxiv.org/abs/1409.5185).

    New pixels at the edge are reflections (the paper: zeros). Shapes stay as they are.
    Raises ValueError when the image is not larger than `pad`.
    """
    image = batch["image"]
    height, width = image.shape[-2:]
    if not 0 <= pad < min(height, width):
        raise ValueError(f"augment: pad={pad} must be at least 0 and less than the image, which is {height} x {width}")
    shift = torch.randint(-pad, pad + 1, (2, len(image), 1), device=image.device)
    rows = reflected(torch.arange(height, device=image.device) + shift[0], height)
    columns = reflected(torch.arange(width, device=image.device) + shift[1], width)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, H * W)
    moved = image.flatten(2).gather(2, pixels[:, None].expand(-1, image.shape[1], -1))
    return batch | {"image": moved.view(image.shape)}


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
    if not 0 <= p <= 1:
        raise ValueError(f"augment: p={p} must lie between 0 and 1")
    image = batch["image"]
    flipped = torch.rand(len(image), 1, 1, 1, device=image.device) < p
    return batch | {"image": torch.where(flipped, image.flip(dimension), image)}
