"""Random parts of images that keep objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plainloop.augment import draws, spatial
from plainloop.augment.objects import rows
from plainloop.augment.settings import check_range, constant
from plainloop.contracts import Batch, Sample

TRIES = 50  # parts drawn for each image, as in the paper's code
WHOLE = 1.0  # the overlap that stands for the whole image


class RandomObjectCrop:
    """Cuts out a random part that overlaps an object enough (SSD: https://arxiv.org/abs/1512.02325, section 2.2).

    Of the overlaps that a part of this image can have, one is drawn; then the first part is taken that has it with an
    object whose centre it contains. Objects with their centre outside are not valid any more. In an image without
    objects any part is taken.

    In workers, on single images of any size, the part keeps its own size. In a whole batch it is stretched to the size
    of the images, as SSD does.

    Args:
        overlaps: least overlaps (intersection over union) of the part with an object; 0 is any part with the centre of
            an object, 1 the whole image.
        scale: width and height of the part as shares of the image's, each uniform from and to. The paper has 0.1 to 1,
            its code 0.3.
        ratio: width by height in pixels, from and to.
    """

    def __init__(
        self,
        *,
        overlaps: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        scale: Sequence[float] = (0.3, 1.0),
        ratio: Sequence[float] = (0.5, 2.0),
    ) -> None:
        if not overlaps or not all(0 <= overlap <= 1 for overlap in overlaps):
            raise ValueError(f"augment: overlaps={list(overlaps)} must be numbers from 0 to 1, such as [0.1, 0.5, 1]")
        check_range(scale, "scale", low=1e-3, high=1)
        check_range(ratio, "ratio", low=1e-3)
        self.overlaps, self.scale, self.ratio = tuple(overlaps), (scale[0], scale[1]), (ratio[0], ratio[1])

    def __call__(self, batch: Batch, step: int) -> Batch:
        """image (B, C, H, W) -> the same shape."""
        height, width = batch["image"].shape[-2:]
        part = self.parts(batch, lambda *shape: draws.uniform(batch, *shape))
        size = constant((width, height), part.dtype, part.device)
        start, end = part[:, :2] / size, part[:, 2:] / size
        matrix = spatial.window(end - start, start + end - 1).to(batch["image"].dtype)
        return with_centres(batch, part, spatial.resampled(batch, matrix, size=(height, width), border=True))

    def sample(self, sample: Sample) -> Sample:
        """image (C, H, W) uint8 -> (C, h, w), in a worker."""
        one = {name: tensor[None] for name, tensor in sample.items()}
        part = self.parts(one, lambda *shape: torch.rand(1, *shape))
        left, top, right, bottom = part[0].int().tolist()

        def pixels(values: Tensor) -> Tensor:
            # A copy: what resizes it next takes half the time.
            return classes(values).contiguous(memory_format=torch.channels_last)

        def classes(values: Tensor) -> Tensor:
            return values[..., top:bottom, left:right]

        def points(places: Tensor) -> Tensor:
            return places - part[:, None, :2]

        cut = with_centres(one, part, spatial.moved(one, pixels, points, classes=classes))
        return {name: tensor[0] for name, tensor in cut.items()}

    def parts(self, batch: Batch, uniform: Callable[..., Tensor]) -> Tensor:
        """(B, 4), x0 y0 x1 y1 in whole pixels; `uniform` draws (B, *shape) from [0, 1)."""
        height, width = batch["image"].shape[-2:]
        drawn = uniform(TRIES, 4)
        whole = constant((width, height), drawn.dtype, drawn.device)
        size = ((self.scale[0] + (self.scale[1] - self.scale[0]) * drawn[..., :2]) * whole).floor()  # (B, TRIES, 2)
        start = ((whole - size) * drawn[..., 2:]).floor()
        ratio = size[..., 0] / size[..., 1]
        possible = (size >= 1).all(-1) & (ratio >= self.ratio[0]) & (ratio <= self.ratio[1])
        tried = torch.cat([start, start + size], dim=-1)
        least = constant(self.overlaps, drawn.dtype, drawn.device)
        fits = (overlaps_kept(tried, *rows.boxes_of(batch))[..., None] >= least) & possible[..., None]
        fits = fits | (least >= WHOLE)  # (B, TRIES, overlaps)
        # A draw for each overlap; the highest wins of those that some try has.
        number = (uniform(len(self.overlaps)) + fits.any(1)).argmax(1)[:, None]  # (B, 1)
        first = fits.byte().argmax(1).gather(1, number)[..., None].expand(-1, -1, 4)
        is_part = fits.any(1).gather(1, number) & (least[number] < WHOLE)
        return torch.where(
            is_part, tried.gather(1, first)[:, 0], constant((0, 0, width, height), whole.dtype, whole.device)
        )


def with_centres(before: Batch, part: Tensor, after: Batch) -> Batch:
    """The batch `after` cutting out `part` (B, 4): objects that had their centre outside are not valid any more."""
    boxes, _ = rows.boxes_of(before)
    if not boxes.shape[1]:
        return after
    return after | {"box_valid": after["box_valid"] & centres_inside(boxes, part[:, None])}


def overlaps_kept(parts: Tensor, boxes: Tensor, valid: Tensor) -> Tensor:
    """(B, T): the largest overlap of a part (B, T, 4) with a box (B, N, 4) whose centre is inside; -1 without such a
    box, and 1 in images without valid boxes.
    """
    part, box = parts[:, :, None], boxes[:, None]  # (B, T, 1, 4) and (B, 1, N, 4)
    common = (torch.minimum(part[..., 2:], box[..., 2:]) - torch.maximum(part[..., :2], box[..., :2])).clamp(min=0)
    common = common.prod(-1)
    area_part, area_box = ((values[..., 2:] - values[..., :2]).prod(-1) for values in (part, box))
    overlap = common / (area_part + area_box - common).clamp(min=torch.finfo(common.dtype).tiny)
    overlap = torch.where(centres_inside(box, part) & valid[:, None], overlap, -1.0)
    none = ~valid.any(1, keepdim=True)
    best = torch.cat([overlap, overlap.new_full((*overlap.shape[:2], 1), -1.0)], dim=-1).amax(-1)  # N may be 0
    return torch.where(none, 1.0, best)


def centres_inside(boxes: Tensor, parts: Tensor) -> Tensor:
    """Whether the centres of boxes (..., 4) lie in parts (..., 4)."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    return ((centre > parts[..., :2]) & (centre < parts[..., 2:])).all(-1)
