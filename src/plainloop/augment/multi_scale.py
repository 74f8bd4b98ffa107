"""Batches of another size every few steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.augment import spatial
from plainloop.augment.settings import check_range
from plainloop.contracts import Batch
from plainloop.system import rng


class MultiScale:
    """Resizes whole batches to sizes that change every few steps, as YOLO trains (https://arxiv.org/abs/1612.08242).

    The size follows from the seed and the step alone: all ranks have the same, and a run that is resumed repeats it.
    Each side becomes a multiple of `multiple_of` pixels, every possible one of the shorter side as likely as any other.
    The model must take images of any size. Sampled bilinearly; list it last.

    Args:
        seed: of the run.
        scale: of the shorter side, from and to: [0.77, 1.46] makes 320 to 608 pixels of 416.
        multiple_of: pixels; the largest stride of the model.
        every: steps with one size.
    """

    def __init__(
        self, *, seed: int, scale: Sequence[float] = (0.77, 1.46), multiple_of: int = 32, every: int = 10
    ) -> None:
        check_range(scale, "scale", low=1e-3)
        for name, value in (("multiple_of", multiple_of), ("every", every)):
            if value < 1:
                raise ValueError(f"augment: {name}={value} must be 1 or more")
        self.seed, self.scale, self.multiple_of, self.every = seed, (scale[0], scale[1]), multiple_of, every

    def __call__(self, batch: Batch, step: int) -> Batch:
        height, width = batch["image"].shape[-2:]
        size = self.size(height, width, step)

        def pixels(values: Tensor) -> Tensor:
            return F.interpolate(values, size, mode="bilinear")

        def classes(values: Tensor) -> Tensor:
            return F.interpolate(values.float(), size, mode="nearest-exact").to(values.dtype)

        def points(places: Tensor) -> Tensor:
            return torch.stack([places[..., 0] * (size[1] / width), places[..., 1] * (size[0] / height)], dim=-1)

        return batch if size == (height, width) else spatial.moved(batch, pixels, points, classes=classes)

    def largest(self) -> MultiScale:
        """One that gives the largest size at every step: it decides about memory."""
        return MultiScale(seed=self.seed, scale=(self.scale[1],) * 2, multiple_of=self.multiple_of, every=self.every)

    def size(self, height: int, width: int, step: int) -> tuple[int, int]:
        """Height and width of the batch that comes after `step` finished steps."""
        shorter = min(height, width)
        first, last = (max(1, round(factor * shorter / self.multiple_of)) for factor in self.scale)
        drawn = rng.fold(rng.SHARED, self.seed, step // self.every, self.every)
        factor = (first + drawn % (last - first + 1)) * self.multiple_of / shorter
        down, across = (max(1, round(factor * side / self.multiple_of)) for side in (height, width))
        return down * self.multiple_of, across * self.multiple_of
