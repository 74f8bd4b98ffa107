"""Polygons and run lengths as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from faster_coco_eval import mask as coco
from numpy.typing import NDArray
from torch import Tensor

from plainloop.data.boxes.annotations import Annotated
from plainloop.data.boxes.letterbox import scaled

DIGITS = 3  # after the point. COCO writes two; float32 keeps three in images of up to 8,192 pixels


def instance_masks(objects: Annotated, index: int, *, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """(n, H, W) bool of an image's objects: the pixels that COCO's code gives for the same outlines.

    Polygons are enlarged before they become pixels, run lengths afterwards. An object without an outline has its box.

    Args:
        scale: of x and y, from pixels of the file to those of the masks.
        size: height and width of the masks; what lies outside is cut off.
    """
    here, outlines = objects.objects(index), objects.outlines
    assert outlines is not None
    masks = np.zeros((here.stop - here.start, *size), np.bool_)
    for mask, number in zip(masks, range(here.start, here.stop), strict=True):
        runs = outlines.runs_of(number)
        if runs:
            of_runs(mask, runs, tuple(outlines.runs_size[number].tolist()), scale)
        else:
            of_polygons(mask, [polygon * scale for polygon in polygons_of(objects, number)])
    return torch.from_numpy(masks)


def instance_runs(objects: Annotated, index: int, *, size: tuple[int, int]) -> Tensor:
    """(L,) uint8: COCO's run lengths of an image's objects in pixels of the file, each with a line feed at its end."""
    here, outlines = objects.objects(index), objects.outlines
    assert outlines is not None
    runs = (
        outlines.runs_of(i) or filled(polygons_of(objects, i), *size)["counts"] for i in range(here.start, here.stop)
    )
    return torch.from_numpy(np.frombuffer(b"".join(counts + b"\n" for counts in runs), np.uint8).copy())


def polygons_of(objects: Annotated, number: int) -> list[NDArray[np.float64]]:
    """(V, 2) each, in pixels of the file; the corners of the box for an object without any."""
    assert objects.outlines is not None
    polygons = [polygon.astype(np.float64).round(DIGITS) for polygon in objects.outlines.polygons_of(number)]
    x0, y0, x1, y1 = objects.boxes[number].astype(np.float64)
    return polygons or [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]


def filled(polygons: list[NDArray[np.float64]], height: int, width: int) -> dict[str, Any]:
    """The pixels inside of any of the polygons, as COCO's run lengths."""
    code: dict[str, Any] = coco.merge(coco.frPyObjects([one.ravel().tolist() for one in polygons], height, width))
    return code


def of_polygons(mask: NDArray[np.bool_], polygons: list[NDArray[np.float64]]) -> None:
    """Sets the pixels inside of any of the polygons. Only the part of the mask up to their far ends is decoded."""
    ends = np.ceil(np.max([polygon.max(0) for polygon in polygons], axis=0)).astype(int) + 1
    height, width = (int(min(max(end, 1), side)) for end, side in zip(ends[::-1], mask.shape, strict=True))
    code = filled(polygons, height, width)
    left, top, width, height = map(int, coco.toBbox(code))
    part = slice(top, top + height), slice(left, left + width)  # the rest of the mask stays untouched memory
    mask[part] = coco.decode(code)[part]


def of_runs(mask: NDArray[np.bool_], runs: bytes, size: tuple[int, int], scale: tuple[float, float]) -> None:
    whole = coco.decode({"size": list(size), "counts": runs})
    rows, columns = (nearest(side, scaled(side, factor)) for side, factor in zip(size, reversed(scale), strict=True))
    part = whole[rows[: mask.shape[0], None], columns[: mask.shape[1]]]
    mask[: part.shape[0], : part.shape[1]] = part


def nearest(before: int, after: int) -> NDArray[np.int64]:
    """(after,): the pixel of a side of `before` pixels that lies at each place, once it has `after`.

    >>> nearest(4, 2).tolist(), nearest(2, 4).tolist()
    ([1, 3], [0, 0, 1, 1])
    """
    return (2 * np.arange(after) + 1) * before // (2 * after)
