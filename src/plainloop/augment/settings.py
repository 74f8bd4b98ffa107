"""Settings that several augmentations share, and what they refuse."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from plainloop.contracts import Steps

LARGE = 2**13  # pixels of an image; below, a call for each image costs more than to compute all of them


def has_ended(step: int, until: Steps | None) -> bool:
    """Whether an augmentation is off after `step` finished steps; None is never.

    >>> has_ended(9, 10), has_ended(10, 10), has_ended(10, None)
    (False, True, False)
    """
    return until is not None and step >= until


def check_probability(p: float, name: str = "p") -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"augment: {name}={p} must lie between 0 and 1")


def check_range(values: Sequence[float], name: str, *, low: float, high: float = float("inf")) -> None:
    """Two numbers in rising order, between `low` and `high`."""
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        limits = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"augment: {name}={list(values)} must be two numbers in rising order, {limits}")


def filling(image: Tensor, fill: Sequence[float]) -> Tensor:
    """(1, C, 1, 1) of the images' type: what is written where an image has nothing."""
    if len(fill) not in (1, image.shape[1]) or not all(0 <= value <= 1 for value in fill):
        raise ValueError(f"augment: fill={list(fill)} must be one number in [0, 1], or one for each channel")
    return constant(tuple(fill), image.dtype, image.device).view(1, -1, 1, 1)


def canvas(values: Tensor, size: Sequence[int], fill: Sequence[float]) -> Tensor:
    """(B, C, *size) uint8 of one colour, channels last in memory: for bytes `values` (B, C, H, W) to be put on."""
    colour = filling(values.float(), fill).mul(255).round().to(values.dtype).expand(1, values.shape[1], 1, 1).flatten()
    row = colour.repeat(size[1])  # rows of bytes are copied twenty times as fast as pixels
    rows = row.expand(len(values), size[0], len(row)).contiguous()
    return rows.view(len(values), *size, values.shape[1]).permute(0, 3, 1, 2)


@functools.cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers on the device, sent there once: sending waits for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


def is_large_on_cpu(image: Tensor) -> bool:
    """Whether images (B, C, H, W) are quicker changed one by one: a CPU need not touch those that stay as they are.

    A GPU would have to wait to know which ones these are.
    """
    return image.device.type == "cpu" and image.shape[-2] * image.shape[-1] >= LARGE
