"""Masks of objects in pixels of the files, as COCO's run lengths: of each object only its own part becomes pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainloop.contracts import Batch
from plainloop.tasks.boxes.inside import limits_of, whole_pixels

Masks = NDArray[np.bool_]
Code = dict[str, Any]  # COCO's compressed run lengths, as JSON takes them: size (height, width) and counts
Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True)
class Region:
    """The part of an image in which an object has pixels."""

    top: int
    left: int
    columns: Masks  # (w, h): its pixels, column by column


def codes_of(objects: Batch, batch: Batch) -> list[Code]:
    """The valid instance masks (B, N, H, W), image by image, in pixels of the files. Waits for the device.

    The files have image_size (B, 2), and image_scale (B,) pixels in the batch for each of theirs; without these entries
    masks are what they are. Objects of the data may bring their own run lengths: instance_runs (B, L).
    """
    if "instance_runs" in objects:
        return list(given_codes(objects))
    masks, valid = objects["instance_mask"], objects["box_valid"].bool()
    sizes = limits = [list(masks.shape[-2:])] * len(masks)
    if "image_size" in batch:
        sizes, limits = batch["image_size"].tolist(), whole_pixels(limits_of(batch, objects["boxes"])).tolist()
    codes = []
    for row, (size, (height, width)) in enumerate(zip(sizes, limits, strict=True)):
        seen = masks[row, :, :height, :width][valid[row]].cpu().numpy()
        codes += codes_from(regions_of(seen, size), size)
    return codes


def given_codes(objects: Batch) -> Iterator[Code]:
    for size, row in zip(objects["image_size"].tolist(), objects["instance_runs"].cpu().numpy(), strict=True):
        for counts in row.tobytes().rstrip(b"\0").splitlines():
            yield {"size": size, "counts": counts.decode()}


def codes_from(regions: Iterator[Region], size: Sequence[int]) -> list[Code]:
    from faster_coco_eval import mask

    counts = [{"size": list(size), "counts": counts_of(region, size).tolist()} for region in regions]
    codes = mask.frPyObjects(counts, *size) if counts else []
    return [{"size": list(size), "counts": code["counts"].decode()} for code in codes]


def counts_of(region: Region, size: Sequence[int]) -> NDArray[np.int64]:
    """How many pixels of an image are off, on, off and so on, column by column.

    >>> counts_of(Region(1, 1, np.array([[True, True], [True, False]])), (3, 3)).tolist()
    [4, 2, 1, 1, 1]
    """
    height, width = size
    pixels = np.zeros((len(region.columns), height), np.bool_)
    pixels[:, region.top : region.top + region.columns.shape[1]] = region.columns
    line = np.concatenate([[False], pixels.ravel(), [False]])
    changes = np.flatnonzero(line[1:] != line[:-1]) + region.left * height
    counts: NDArray[np.int64] = np.diff(changes, prepend=0, append=height * width)
    return counts if counts[-1] else counts[:-1]


def regions_of(masks: Masks, size: Sequence[int]) -> Iterator[Region]:
    """Of masks (N, h, w), in an image of another size: the pixels to which half or more belongs, between neighbours."""
    rows, columns = (places(before, after) for before, after in zip(masks.shape[1:], size, strict=True))
    for mask in masks:
        top, bottom = reached(rows, mask.any(1))
        left, right = reached(columns, mask.any(0))
        if top >= bottom or left >= right:
            yield Region(0, 0, np.zeros((0, 0), np.bool_))
            continue
        first, last = columns[0][left], columns[1][right - 1] + 1
        part = between(mask[:, first:last], rows, slice(top, bottom)).T
        moved = (columns[0] - first, columns[1] - first, columns[2])
        yield Region(top, left, between(part, moved, slice(left, right)) >= 0.5)


def places(before: int, after: int) -> Places:
    """For each pixel of a side that is resized: the two before between which it lies, and the share of the second.

    >>> [part.tolist() for part in places(2, 4)]
    [[0, 0, 0, 1], [1, 1, 1, 1], [0.0, 0.25, 0.75, 0.25]]
    """
    at = np.maximum((np.arange(after) + 0.5) * (before / after) - 0.5, 0)
    low = np.minimum(at.astype(np.int64), before - 1)
    return low, np.minimum(low + 1, before - 1), (at - low).astype(np.float32)


def reached(side: Places, used: NDArray[np.bool_]) -> tuple[int, int]:
    """Which pixels of a resized side take something from those that are used."""
    lines = np.flatnonzero(used)
    if not len(lines):
        return 0, 0
    low, high, _ = side
    return int(np.searchsorted(high, lines[0])), int(np.searchsorted(low, lines[-1], side="right"))


def between(pixels: NDArray[Any], side: Places, part: slice) -> NDArray[np.float32]:
    """The rows in this part of a resized side."""
    low, high, share = (values[part] for values in side)
    values, other = (np.ascontiguousarray(pixels[lines], np.float32) for lines in (low, high))
    other -= values
    other *= share[:, None]
    values += other
    return values
