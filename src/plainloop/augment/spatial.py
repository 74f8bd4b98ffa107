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
INSTEAD = {"boxes": "augment=detection", "mask": "augment=segmentation", "label": "augment=standard"}


def refuse(batch: Batch, name: str, entries: Sequence[str] = SPATIAL) -> None:
    """Raises ValueError when a batch (or a sample) has one of the entries, which `name` would leave wrong."""
    if found := [entry for entry in entries if entry in batch]:
        instead = "".join([f", or type {INSTEAD[entry]}" for entry in INSTEAD if entry in found][:1])
        what = " and ".join(found)
        raise ValueError(f"augment: {name} cannot change {what} as it changes the image; leave it out{instead}")


def moved(
    batch: Batch,
    pixels: Callable[[Tensor], Tensor],
    points: Callable[[Tensor], Tensor],
    *,
    classes: Callable[[Tensor], Tensor] | None = None,
    bounds: Tensor | None = None,
    min_visible: float = 0.0,
) -> Batch:
    """The batch with every spatial entry moved as its image.

    Boxes are cut off at the edges of the image; what lies outside is not valid any more (`box_valid`), nor is an object
    whose instance mask has become empty. Polygons keep all their points. `box_area` and `image_...` stay those of the
    file: only evaluation reads them, and its images are not augmented.

    Args:
        pixels: (B, C, H, W) -> (B, C, h, w), of the images.
        points: (B, P, 2) float -> the same: where x and y in pixels go to. Pixel i reaches from i to i + 1.
        classes: as `pixels`, of masks, whose values must not be blended; what comes from outside the image must be 0.
            None: `pixels`, which then only copies, and nothing comes from outside.
        bounds: (B, 1, 4), where boxes are cut off instead; x0 y0 x1 y1 in pixels of the result.
        min_visible: an object of which less than this share of the box is left is not valid any more.
    """
    result = batch | {"image": pixels(batch["image"])}
    if "mask" in batch:
        mask = batch["mask"][:, None]
        mask = pixels(mask) if classes is None else classes(mask - IGNORE) + IGNORE  # outside is IGNORE
        result["mask"] = mask[:, 0]
    if "instance_mask" in batch:
        result["instance_mask"] = (classes or pixels)(batch["instance_mask"])
    corners = {name: points_of(batch[name], points) for name in OUTLINES if name in batch}
    return with_outlines(result, corners, bounds=bounds, min_visible=min_visible)


def points_of(outlines: Tensor, points: Callable[[Tensor], Tensor]) -> Tensor:
    """Boxes (B, N, 4), all four corners of each, or polygons (B, N, V, 2) -> (B, N, 4 or V, 2), moved."""
    corners = corners_of(outlines)
    return points(corners.flatten(1, 2)).view(corners.shape)


def corners_of(outlines: Tensor) -> Tensor:
    """Boxes (B, N, 4) or polygons (B, N, V, 2) -> (B, N, 4 or V, 2)."""
    return outlines[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2)) if outlines.ndim == 3 else outlines


def with_outlines(
    batch: Batch, corners: dict[str, Tensor], *, bounds: Tensor | None = None, min_visible: float = 0.0
) -> Batch:
    """The batch with boxes and polygons of these points (..., N, V, 2), and with what of them is still to be seen.

    `bounds` and `min_visible` are those of `moved`.
    """
    height, width = batch["image"].shape[-2:]
    result = dict(batch)
    for name, places in corners.items():
        ends = torch.stack([places.amin(-2), places.amax(-2)], dim=-2)  # (..., N, 2 ends, x and y)
        if bounds is None:  # as numbers: sizes that change would have to be sent to the device
            kept = torch.stack([ends[..., 0].clamp(0, width), ends[..., 1].clamp(0, height)], dim=-1)
        else:
            kept = ends.maximum(bounds[..., None, :2]).minimum(bounds[..., None, 2:])
        before, after = (values[..., 1, :] - values[..., 0, :] for values in (ends, kept))
        visible = (after > 0).all(-1) & (after.prod(-1) >= min_visible * before.prod(-1))
        result["box_valid"] = result["box_valid"] & visible
        result[name] = kept.flatten(-2) if name == "boxes" else places
    return without_unseen(result)


def without_unseen(batch: Batch) -> Batch:
    """Objects whose instance mask is empty are not valid."""
    if "instance_mask" not in batch or "box_valid" not in batch:
        return batch
    return batch | {"box_valid": batch["box_valid"] & batch["instance_mask"].flatten(-2).any(-1)}


def window(part: Tensor, centre: Tensor) -> Tensor:
    """(B, 2, 3), for `resampled`: of each side (x, y) of the image, how much is seen, and around which place.

    part: (B, 2), above 1 where the image ends before; centre: (B, 2) from -1 to 1, the edges of the image.
    """
    (across, down), zero = part.unbind(1), torch.zeros_like(part[:, 0])
    rows = [torch.stack([across, zero, centre[:, 0]], dim=1), torch.stack([zero, down, centre[:, 1]], dim=1)]
    return torch.stack(rows, dim=1)


def resampled(
    batch: Batch,
    matrix: Tensor,
    *,
    size: Sequence[int],
    grid: Tensor | None = None,
    fill: Tensor | None = None,
    border: bool = False,
    bounds: Tensor | None = None,
    min_visible: float = 0.0,
) -> Batch:
    """The batch with images of `size` (height, width), sampled bilinearly.

    Args:
        matrix: (B, 2, 3), from places of the result to places of the image; both have edges at -1 and 1, whatever their
            length in pixels.
        grid: (B, H, W, 2), what affine_grid makes of `matrix`; None: it is a `window`, for which there is a faster way.
        fill: (1, C, 1, 1), what comes in from outside; None: 0.
        border: repeats the pixels of the image's edge outside of it instead.
        bounds, min_visible: as in `moved`.
    """
    image = batch["image"]
    height, width = image.shape[-2:]
    grid = grid_of(*lines_seen(matrix, size)) if grid is None else grid
    padding = "border" if border else "zeros"

    def pixels(values: Tensor) -> Tensor:
        values = values if fill is None else values - fill
        values = F.grid_sample(values, grid.to(values.dtype), padding_mode=padding, align_corners=False)
        return values if fill is None else values + fill

    def classes(values: Tensor) -> Tensor:
        nearest = F.grid_sample(values.float(), grid, mode="nearest", padding_mode=padding, align_corners=False)
        return nearest.to(values.dtype)

    def points(places: Tensor) -> Tensor:
        return points_seen(places, matrix, (height, width), size)

    return moved(batch, pixels, points, classes=classes, bounds=bounds, min_visible=min_visible)


def points_seen(places: Tensor, matrix: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Where `resampled` brings places (B, P, 2); `before` and `after` are heights and widths of the images."""
    back = torch.linalg.inv_ex(matrix[:, :, :2]).inverse.to(places.dtype)  # `inv` would wait for the device
    of_image = constant((before[1], before[0]), places.dtype, places.device)
    of_result = constant((after[1], after[0]), places.dtype, places.device)
    centred = places * 2 / of_image - 1 - matrix[:, None, :, 2]
    return ((back[:, None] @ centred[..., None])[..., 0] + 1) * of_result / 2


def lines_seen(matrix: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """x (B, W) and y (B, H) of the grid of a `window`: to the last bit those of affine_grid, in a tenth of the time."""
    lines = []
    for axis, length in enumerate((size[1], size[0])):
        centres = torch.linspace(-1, 1, length, dtype=matrix.dtype, device=matrix.device) * (length - 1) / length
        lines.append(centres * matrix[:, axis, axis, None] + matrix[:, axis, 2:])
    return lines[0], lines[1]


def grid_of(x: Tensor, y: Tensor) -> Tensor:
    """(..., H, W, 2), for grid_sample, of x (..., W) and y (..., H)."""
    size = (*x.shape[:-1], y.shape[-1], x.shape[-1])
    return torch.stack([x[..., None, :].expand(size), y[..., None].expand(size)], dim=-1)
