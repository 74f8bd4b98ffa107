"""Moves with the pixels of images what belongs to places in them: masks, instance masks, boxes and polygons.

An augmentation that moves pixels gives its move to `moved` or `resampled`. One that cannot do it right calls `refuse`.
One that moves no pixel needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.augment.settings import constant
from plainloop.contracts import IGNORE, Batch

OUTLINES = ("boxes", "polygons")
SPATIAL = ("mask", "instance_mask", *OUTLINES)


def refuse(batch: Batch, name: str, entries: Sequence[str] = SPATIAL) -> None:
    """Raises ValueError when a batch (or a sample) has one of the entries, which `name` would leave wrong."""
    if found := [entry for entry in entries if entry in batch]:
        raise ValueError(f"augment: {name} cannot change {' and '.join(found)} as it changes the image; leave it out")


def moved(
    batch: Batch,
    pixels: Callable[[Tensor], Tensor],
    points: Callable[[Tensor], Tensor],
    *,
    classes: Callable[[Tensor], Tensor] | None = None,
) -> Batch:
    """The batch with every spatial entry moved as its image.

    Boxes are cut off at the edges of the image; what lies outside is not valid any more (`box_valid`). Polygons keep
    all their points.

    Args:
        pixels: (B, C, H, W) -> (B, C, h, w), of the images.
        points: (B, P, 2) float -> the same: where x and y in pixels go to. Pixel i reaches from i to i + 1.
        classes: as `pixels`, of masks, whose values must not be blended; what comes from outside the image must be 0.
            None: `pixels`, which then only copies, and nothing comes from outside.
    """
    result = batch | {"image": pixels(batch["image"])}
    if "mask" in batch:
        mask = batch["mask"][:, None]
        mask = pixels(mask) if classes is None else classes(mask - IGNORE) + IGNORE  # outside is IGNORE
        result["mask"] = mask[:, 0]
    if "instance_mask" in batch:
        result["instance_mask"] = (classes or pixels)(batch["instance_mask"])
    return with_outlines(result, {name: points_of(batch[name], points) for name in OUTLINES if name in batch})


def points_of(outlines: Tensor, points: Callable[[Tensor], Tensor]) -> Tensor:
    """Boxes (B, N, 4), all four corners of each, or polygons (B, N, V, 2) -> (B, N, 4 or V, 2), moved."""
    corners = outlines[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2)) if outlines.ndim == 3 else outlines
    return points(corners.flatten(1, 2)).view(corners.shape)


def with_outlines(batch: Batch, corners: dict[str, Tensor]) -> Batch:
    """The batch with boxes and polygons of these points (..., N, V, 2), and with what of them is still in the image."""
    height, width = batch["image"].shape[-2:]
    result = dict(batch)
    for name, places in corners.items():
        ends = torch.stack([places.amin(-2), places.amax(-2)], dim=-2).clamp(min=0)  # (..., N, 2 ends, x and y)
        ends = ends.minimum(constant((width, height), ends.dtype, ends.device))
        result["box_valid"] = result["box_valid"] & (ends[..., 1, :] > ends[..., 0, :]).all(-1)
        result[name] = ends.flatten(-2) if name == "boxes" else places
    return result


def resampled(
    batch: Batch, matrix: Tensor, *, size: Sequence[int], fill: Tensor | None = None, border: bool = False
) -> Batch:
    """The batch with images of `size` (height, width), sampled bilinearly.

    Args:
        matrix: (B, 2, 3), from places of the result to places of the image; both have edges at -1 and 1, whatever their
            length in pixels.
        fill: (1, C, 1, 1), what comes in from outside; None: 0.
        border: repeats the pixels of the image's edge outside of it instead.
    """
    image = batch["image"]
    height, width = image.shape[-2:]
    grid = F.affine_grid(matrix, [len(image), image.shape[1], *size], align_corners=False)
    padding = "border" if border else "zeros"

    def pixels(values: Tensor) -> Tensor:
        values = values if fill is None else values - fill
        values = F.grid_sample(values, grid.to(values.dtype), padding_mode=padding, align_corners=False)
        return values if fill is None else values + fill

    def classes(values: Tensor) -> Tensor:
        nearest = F.grid_sample(values.float(), grid, mode="nearest", padding_mode=padding, align_corners=False)
        return nearest.to(values.dtype)

    def points(places: Tensor) -> Tensor:
        back = torch.linalg.inv_ex(matrix[:, :, :2]).inverse.to(places.dtype)  # `inv` would wait for the device
        before = constant((width, height), places.dtype, places.device)
        after = constant((size[1], size[0]), places.dtype, places.device)
        centred = places * 2 / before - 1 - matrix[:, None, :, 2]
        return ((back[:, None] @ centred[..., None])[..., 0] + 1) * after / 2

    return moved(batch, pixels, points, classes=classes)
