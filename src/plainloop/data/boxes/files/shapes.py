"""The outlines of objects in a COCO file, which of them can be read, and which have pixels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainloop.data.boxes.annotations import Annotated, Outlines, offsets
from plainloop.errors import BadData, counted

AT_ONCE = 4096  # objects whose run lengths are decoded together


class Shapes:
    """`segmentation` of each object: polygons, or run lengths."""

    def __init__(self) -> None:
        self.points = array("f")
        self.corners, self.polygons, self.num_bytes = array("q"), array("q"), array("q")
        self.runs, self.sizes = bytearray(), array("i")
        self.too_short = 0  # polygons

    def take(self, segmentation: Any) -> None:
        """Raises TypeError, ValueError and KeyError."""
        runs, size, polygons = b"", (0, 0), 0
        if isinstance(segmentation, dict):
            size, counts = segmentation["size"], segmentation["counts"]
            if len(size) != 2 or min(size) < 1:
                raise ValueError("size is not height and width")
            runs = counts.encode() if isinstance(counts, str) else compressed(counts)
        else:
            if segmentation and not isinstance(segmentation[0], list):
                segmentation = [segmentation]  # some tools write one polygon without the outer list
            for polygon in segmentation or ():
                if len(polygon) % 2:
                    raise ValueError(f"a polygon has {len(polygon)} numbers, x and y in turn")
                if len(polygon) >= 6:
                    self.points.extend(polygon)
                    self.corners.append(len(polygon) // 2)
                    polygons += 1
                else:
                    self.too_short += 1
        self.polygons.append(polygons)
        self.runs += runs
        self.num_bytes.append(len(runs))
        self.sizes.extend(size)

    def outlines(self, where: str, ids: Sequence[Any]) -> Outlines:
        """Raises BadData where an object has no outline."""
        polygons, num_bytes = np.array(self.polygons, np.int64), np.array(self.num_bytes, np.int64)
        if len(without := np.flatnonzero((polygons == 0) & (num_bytes == 0))):
            told = "annotations have boxes only, no segmentation"
            if len(without) < len(ids) or self.too_short:
                told = f"{len(without):,} of {counted(len(ids), 'annotation')} have no outline of three points or more"
                told += f" (id {ids[without[0]]})"
            raise BadData(
                f"{where}: {told}",
                hint="instance masks need polygons or run lengths of every object: mend or remove these; for boxes "
                "type data.instance_masks=false and task=detection",
            )
        points = np.array(self.points, np.float32).reshape(-1, 2)
        if not np.isfinite(points).all():
            polygon = np.searchsorted(np.cumsum(self.corners), np.flatnonzero(~np.isfinite(points).all(1))[0], "right")
            wrong = ids[int(np.searchsorted(np.cumsum(polygons), polygon, "right"))]
            raise BadData(f"{where}: segmentation of id {wrong} has numbers that are none", hint="mend or remove it")
        return Outlines(
            points=points,
            first_point=offsets(np.array(self.corners, np.int64)),
            first_polygon=offsets(polygons),
            runs=np.frombuffer(bytes(self.runs), np.uint8),
            first_byte=offsets(num_bytes),
            runs_size=np.array(self.sizes, np.int32).reshape(-1, 2),
        )


def compressed(counts: Sequence[int]) -> bytes:
    """COCO's string of run lengths: differences to the one before the last, five bits in each character.

    >>> compressed([10, 5, 300, 7])
    b':5\\\\92'
    """
    text = bytearray()
    for number, count in enumerate(counts):
        left, more = count - (counts[number - 2] if number > 2 else 0), True
        while more:
            five, left = left & 31, left >> 5
            more = left != (-1 if five & 16 else 0)
            text.append(48 + five + 32 * more)
    return bytes(text)


def with_pixels(annotated: Annotated, ids: Sequence[Any], where: str) -> tuple[Annotated, tuple[str, ...]]:
    """Without the objects whose outline has no pixel inside of the image. Raises BadData for damaged run lengths."""
    outlines, sizes = annotated.outlines, annotated.sizes.copy()
    assert outlines is not None
    image = np.repeat(np.arange(len(annotated)), np.diff(annotated.first))
    has_runs = np.diff(outlines.first_byte) > 0
    unsaid = has_runs & (sizes[image] == 0).any(1)
    sizes[image[unsaid]] = outlines.runs_size[unsaid]
    if len(wrong := np.flatnonzero(has_runs & (sizes[image] != outlines.runs_size).any(1))):
        of, expected = outlines.runs_size[wrong[0]].tolist(), sizes[image[wrong[0]]].tolist()
        raise BadData(
            f"{where}: {counted(len(wrong), 'annotation')} with run lengths for another size than the image; the "
            f"first, id {ids[wrong[0]]}, has [height, width] {of}, and its image {expected}",
            hint="export them again at the image's size, or remove them",
        )
    every, inside = sums_of_runs(outlines)
    if len(wrong := np.flatnonzero(has_runs & (every != outlines.runs_size.astype(np.int64).prod(1)))):
        height, width = outlines.runs_size[wrong[0]].tolist()
        got = f"sum up to {every[wrong[0]]:,}" if every[wrong[0]] >= 0 else "are damaged"
        raise BadData(
            f"{where}: {counted(len(wrong), 'annotation')} with damaged run lengths; those of the first, id "
            f"{ids[wrong[0]]}, {got}, and its image has {height} x {width} = {height * width:,} pixels",
            hint="export them again, or remove them",
        )
    nothing = has_runs & (inside == 0)
    if len(rows := np.flatnonzero(np.diff(outlines.first_polygon) > 0)):
        starts = outlines.first_point[outlines.first_polygon[rows]]
        low, high = (extreme.reduceat(outlines.points, starts) for extreme in (np.minimum, np.maximum))
        ends = np.where(sizes > 0, sizes, np.inf)[image[rows], ::-1]
        nothing[rows] = ((high <= 0) | (low >= ends)).any(1)
    if not nothing.any():
        return replace(annotated, sizes=sizes), ()
    note = f"{counted(int(nothing.sum()), 'object')} whose outline is empty or outside of the image, left out"
    return replace(annotated, sizes=sizes).only(~nothing), (note,)


def sums_of_runs(outlines: Outlines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of each object's run lengths (M,), and those inside of the object (M,); -1 where they are damaged."""
    every, inside = np.zeros((2, len(outlines.runs_size)), np.int64)
    for start in range(0, len(every), AT_ONCE):
        first = outlines.first_byte[start : start + AT_ONCE + 1]
        if first[0] < first[-1]:
            chosen = slice(start, start + len(first) - 1)
            every[chosen], inside[chosen] = sums_of(outlines.runs[first[0] : first[-1]], first - first[0])
    return every, inside


def sums_of(runs: NDArray[np.uint8], first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`sums_of_runs` for the bytes `first[m]:first[m + 1]` of each object, in the form of `compressed`."""
    codes, num_objects = runs.astype(np.int64) - 48, len(first) - 1
    owner = np.repeat(np.arange(num_objects), np.diff(first))
    ends = (codes & 32) == 0
    last = np.append(owner[1:] != owner[:-1], True)
    damaged = [owner[(codes < 0) | (codes > 63) | (last & ~ends)]]
    stops = np.flatnonzero(ends | last) + 1
    starts = np.append(0, stops[:-1])
    length = stops - starts  # in bytes, five bits each; more than six are beyond any image
    damaged.append(owner[starts[length > 6]])
    place = np.minimum(np.arange(len(codes)) - np.repeat(starts, length), 6)
    value = np.add.reduceat((codes & 31) << (5 * place), starts)
    value -= np.where(codes[stops - 1] & 16, 1 << (5 * np.minimum(length, 7)), 0)
    # Each number but the first three is a difference to the one before the last.
    owner = owner[starts]
    begins = np.append(True, owner[1:] != owner[:-1])
    turn = np.arange(len(owner)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    order = np.lexsort((turn, turn % 2, owner))
    step = np.where(turn == 0, 0, value)[order]
    total, chain = np.cumsum(step), turn[order] < 2
    before = (total - step)[chain][np.cumsum(chain) - 1]
    counts = np.empty_like(value)
    counts[order] = total - before
    counts[turn == 0] = value[turn == 0]
    damaged.append(owner[counts < 0])
    every, inside = np.zeros((2, num_objects), np.int64)
    np.add.at(every, owner, counts)
    np.add.at(inside, owner, np.where(turn % 2, counts, 0))
    every[np.concatenate(damaged)] = -1
    return every, inside
