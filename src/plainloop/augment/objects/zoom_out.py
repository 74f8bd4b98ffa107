"""Images made smaller on a canvas of one colour, so that there are more small objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plainloop.augment import draws, spatial
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.augment.settings import canvas, check_probability, check_range, filling
from plainloop.contracts import Batch, Sample

LARGEST = 2560  # pixels of a canvas in a worker: four times a photograph of COCO; of 4000 pixels it would take 0.5 GB


class RandomZoomOut:
    """Puts images at random places of larger canvases (SSD: https://arxiv.org/abs/1512.02325, section 3.6).

    In workers, on single images of any size, the canvas is larger and the image keeps its pixels, unless the canvas
    would have more than 2560 a side: then both are smaller. In a whole batch the images keep their size, and what they
    show becomes smaller, sampled bilinearly.

    Args:
        ratio: sides of the canvas by those of the image, uniform from and to.
        p: share of the images that are changed.
        fill: colour of the canvas, one number per channel in [0, 1]. Masks have no class there.
    """

    def __init__(self, *, ratio: Sequence[float] = (1.0, 4.0), p: float = 0.5, fill: Sequence[float] = (0.5,)) -> None:
        check_range(ratio, "ratio", low=1)
        check_probability(p)
        self.ratio, self.p, self.fill = (ratio[0], ratio[1]), p, tuple(fill)

    def __call__(self, batch: Batch, step: int) -> Batch:
        """image (B, C, H, W) -> the same shape."""
        image = batch["image"]
        drawn = draws.uniform(batch, low=self.ratio[0], high=self.ratio[1])
        ratio = torch.where(draws.chosen(batch, self.p), drawn, 1.0)[:, None].expand(-1, 2)
        matrix = spatial.window(ratio, (1 - ratio) * (2 * draws.uniform(batch, 2) - 1)).to(image.dtype)
        return spatial.resampled(batch, matrix, size=tuple(image.shape[-2:]), fill=filling(image, self.fill))

    def sample(self, sample: Sample) -> Sample:
        """image (C, H, W) uint8 -> (C, ratio * H, ratio * W), in a worker."""
        chosen, ratio, *place = torch.rand(4).tolist()
        if chosen >= self.p:
            return sample
        ratio = self.ratio[0] + (self.ratio[1] - self.ratio[0]) * ratio
        height, width = sample["image"].shape[-2:]
        smaller = LARGEST / (ratio * max(height, width))
        if smaller < 1:
            height, width = max(1, round(height * smaller)), max(1, round(width * smaller))
            sample = RandomScaleCrop(size=(height, width), scale=(smaller, smaller), min_visible=0.0).sample(sample)
        size = int(height * ratio), int(width * ratio)
        top, left = (int(share * (whole - length + 1)) for share, whole, length in zip(place, size, (height, width)))

        def placed(values: Tensor, on: Tensor) -> Tensor:
            on[..., top : top + height, left : left + width] = values
            return on

        def pixels(values: Tensor) -> Tensor:
            return placed(values, canvas(values, size, self.fill))

        def classes(values: Tensor) -> Tensor:
            return placed(values, values.new_zeros(*values.shape[:2], *size))

        def points(places: Tensor) -> Tensor:
            return torch.stack([places[..., 0] + left, places[..., 1] + top], dim=-1)

        one = {name: tensor[None] for name, tensor in sample.items()}
        return {name: tensor[0] for name, tensor in spatial.moved(one, pixels, points, classes=classes).items()}
