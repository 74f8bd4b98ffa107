"""Four images of a batch in one, with the objects of all."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.augment import draws, erasing, spatial
from plainloop.augment.objects import rows
from plainloop.augment.settings import check_probability, check_range, constant, filling, has_ended, is_large_on_cpu
from plainloop.contracts import IGNORE, Batch, Steps


def mosaic(
    batch: Batch,
    step: int,
    *,
    p: float = 1.0,
    centre: Sequence[float] = (0.25, 0.75),
    scale: Sequence[float] = (0.5, 1.0),
    fill: Sequence[float] = (0.5,),
    min_visible: float = 0.1,
    max_objects: int | None = None,
    until: Steps | None = None,
) -> Batch:
    """Shows four images of the batch around a random point (YOLOv4: https://arxiv.org/abs/2004.10934).

    Each has its corner at the point and is cut off where the next begins; where it ends before, there is `fill`. The
    other three come from the same rank's batch. The result has room for the objects of all four. Unlike in the paper's
    code each image gets a size of its own.

    Args:
        p: share of the images that get three others.
        centre: the point, across and down, as shares of the image, uniform from and to.
        scale: the size of each of the four as a share of its own, uniform from and to.
        fill: one number per channel in [0, 1].
        min_visible: an object of which less than this share of the box is left goes.
        max_objects: for each image, the largest ones; saves memory. None: all.
        until: off from this step on.
    """
    spatial.refuse(batch, "mosaic", ("label",))
    check_probability(p)
    check_range(centre, "centre", low=0, high=1)
    check_range(scale, "scale", low=1e-3, high=10)
    check_probability(min_visible, "min_visible")
    if max_objects is not None and max_objects < 1:
        raise ValueError(f"augment: max_objects={max_objects} must be 1 or more, or null for all")
    if has_ended(step, until):
        return batch
    image = batch["image"]
    size = (height, width) = tuple(image.shape[-2:])
    sides = constant((width, height), torch.float32, image.device)
    chosen = draws.chosen(batch, p)[:, None]
    point = (draws.uniform(batch, 2, low=centre[0], high=centre[1]) * sides).round()  # on the edge of pixels
    point = torch.where(chosen, point, sides)  # in the last corner, so that the first image fills all
    factors = torch.where(chosen, draws.uniform(batch, 4, low=scale[0], high=scale[1]), 1.0)
    others = [torch.arange(len(image), device=image.device), *(draws.partners(batch) for _ in range(3))]
    colour = filling(image, fill)
    sources = {"image": image - colour}  # outside of an image there are zeros
    if "mask" in batch:
        sources["mask"] = (batch["mask"][:, None] - IGNORE).to(image.dtype)
    joined = {name: torch.empty_like(values, dtype=batch[name].dtype) for name, values in sources.items()}
    instances = batch["instance_mask"].to(image.dtype) if "instance_mask" in batch else None
    parts = []
    for number, (partners, factor) in enumerate(zip(others, factors.split(1, dim=1), strict=True)):
        after = constant((number % 2, number // 2), torch.float32, image.device)  # 1: right of the point, below it
        first, last = after * point, torch.where(after > 0, sides, point)
        start = point / sides - (1 - after) * factor  # of the image, in shares of the result
        matrix = spatial.window((1 / factor).expand(-1, 2), (1 - 2 * start) / factor - 1).to(image.dtype)
        put = functools.partial(with_part, partners=partners, matrix=matrix, first=first, last=last)
        joined = {name: put(values, sources[name]) for name, values in joined.items()}
        part = {"image": image} | {name: batch[name][partners] for name in rows.names(batch) if name != "instance_mask"}
        if instances is not None:
            part["instance_mask"] = put(torch.zeros_like(batch["instance_mask"]), instances)
        points = functools.partial(spatial.points_seen, matrix=matrix, before=size, after=size)
        corners = {name: spatial.points_of(part[name], points) for name in spatial.OUTLINES if name in part}
        bounds = torch.cat([first, last], dim=1)[:, None]
        parts.append(spatial.with_outlines(part, corners, bounds=bounds, min_visible=min_visible))
    result = batch | rows.joined(parts) | {"image": joined["image"].add_(colour)}
    if "mask" in joined:
        result["mask"] = joined["mask"][:, 0] + IGNORE
    return result if max_objects is None else rows.largest(result, max_objects)


def with_part(
    result: Tensor, values: Tensor, *, partners: Tensor, matrix: Tensor, first: Tensor, last: Tensor
) -> Tensor:
    """`result` (B, C, H, W) with what is seen of its partners' `values` through `matrix`; may overwrite `result`.

    From pixel `first` (B, 2), x and y, up to `last`. On a CPU the rest is not sampled. A GPU would have to wait to know
    where these lie. What are no floats, masks, gets the nearest value.
    """
    across, down = spatial.lines_seen(matrix, result.shape[-2:])
    mode = "bilinear" if result.is_floating_point() else "nearest"
    if not is_large_on_cpu(result):
        grid = spatial.grid_of(across, down)
        here = erasing.box({"image": result}, first.flip(1), (last - first).flip(1))  # it takes y first
        part = F.grid_sample(values[partners], grid, mode=mode, align_corners=False)
        return torch.where(here, part.to(result.dtype), result)
    places = torch.cat([partners[:, None], first.long(), last.long()], dim=1)
    for row, (partner, left, top, right, bottom) in enumerate(places.tolist()):
        one, y, x = slice(row, row + 1), slice(top, bottom), slice(left, right)
        if left < right and top < bottom:
            grid = spatial.grid_of(across[one, x], down[one, y])
            part = F.grid_sample(values[partner : partner + 1], grid, mode=mode, align_corners=False)
            result[one, :, y, x] = part
    return result
