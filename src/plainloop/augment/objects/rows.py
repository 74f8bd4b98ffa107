"""The entries of a batch that have a row for each object, whatever their names after `box_`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plainloop.augment.spatial import OUTLINES, corners_of
from plainloop.contracts import Batch


def names(batch: Batch) -> list[str]:
    """The entries (B, N, ...): boxes, polygons, instance_mask, box_label, box_valid, box_crowd and the like."""
    return [name for name in batch if name.startswith("box_") or name in ("instance_mask", *OUTLINES)]


def joined(parts: Sequence[Batch]) -> Batch:
    """The first batch with the objects of all, in order: N becomes the sum."""
    return parts[0] | {name: torch.cat([part[name] for part in parts], dim=1) for name in names(parts[0])}


def largest(batch: Batch, count: int) -> Batch:
    """The batch with at most `count` objects for each image: the largest valid ones. Never waits for the device."""
    boxes, valid = boxes_of(batch)
    if boxes.shape[1] <= count:
        return batch
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    order = torch.where(valid, area, -1).argsort(dim=1, descending=True, stable=True)[:, :count]
    rows = torch.arange(len(order), device=order.device)[:, None]
    return batch | {name: batch[name][rows, order] for name in names(batch)}


def boxes_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """boxes (B, N, 4), or those around polygons, and box_valid (B, N); of a batch without objects N is 0."""
    for name in OUTLINES:
        if name in batch:
            places = corners_of(batch[name])
            return torch.cat([places.amin(-2), places.amax(-2)], dim=-1), batch["box_valid"]
    image = batch["image"]
    return image.new_zeros(len(image), 0, 4), image.new_zeros(len(image), 0, dtype=torch.bool)
