"""Which objects the images of a split have: flat arrays, which forked workers share without copying them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outlines:
    """The shape of each of M objects: polygons, or COCO's run lengths, or neither, which is an object with only a box.

    Polygon p has the points `first_point[p]:first_point[p + 1]`, object m the polygons `first_polygon[m]:...[m + 1]`
    and the bytes `first_byte[m]:...[m + 1]` of `runs`, which is none where it has polygons.
    """

    points: NDArray[np.float32]  # (K, 2) x and y in pixels of the file
    first_point: Ints  # (P + 1,)
    first_polygon: Ints  # (M + 1,)
    runs: NDArray[np.uint8]  # COCO's compressed `counts`, all one after the other
    first_byte: Ints  # (M + 1,)
    runs_size: NDArray[np.int32]  # (M, 2) height and width of the image of the runs; 0 where there are none

    def polygons_of(self, number: int) -> list[NDArray[np.float32]]:
        """(V, 2) each; the object is the pixels inside of any of them."""
        chosen = range(self.first_polygon[number], self.first_polygon[number + 1])
        return [self.points[self.first_point[p] : self.first_point[p + 1]] for p in chosen]

    def runs_of(self, number: int) -> bytes:
        """What pycocotools.mask.decode and faster_coco_eval's take as `counts`; b"" where there are none."""
        return self.runs[self.first_byte[number] : self.first_byte[number + 1]].tobytes()

    def rows(self, objects: Ints) -> Outlines:
        polygons, first_polygon = ragged(self.first_polygon, objects)
        points, first_point = ragged(self.first_point, polygons)
        runs, first_byte = ragged(self.first_byte, objects)
        return Outlines(
            self.points[points], first_point, first_polygon, self.runs[runs], first_byte, self.runs_size[objects]
        )


@dataclass(frozen=True)
class Annotated:
    """The images of a split with their M objects, of which image i has `first[i]:first[i + 1]`.

    Every box is inside of its image and has a width and a height above 0, where the annotations say the image's size.
    """

    images: NDArray[np.bytes_]  # (N,) paths from the root of the data set
    sizes: NDArray[np.int32]  # (N, 2) height and width that the annotations say; 0: they do not
    first: Ints  # (N + 1,)
    boxes: NDArray[np.float32]  # (M, 4) x0 y0 x1 y1 in pixels of the file
    label: Ints  # (M,) 0, 1, ...
    crowd: NDArray[np.bool_]  # (M,) many objects in one box: found or not found, it counts neither way
    difficult: NDArray[np.bool_]  # (M,) Pascal VOC's flag, with the same meaning in its measure
    area: NDArray[np.float32]  # (M,) of the object, not of its box, in pixels of the file
    outlines: Outlines | None = None  # None: only boxes are known, or wanted

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def objects(self, index: int) -> slice:
        """Where the objects of an image are in `boxes`, `label` and so on."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def rows(self, positions: Ints) -> Annotated:
        """These images, in this order, with their objects."""
        chosen, first = ragged(self.first, positions)
        return replace(
            self._of_objects(chosen), images=self.images[positions], sizes=self.sizes[positions], first=first
        )

    def only(self, kept: NDArray[np.bool_]) -> Annotated:
        """All images, with the objects that are `kept` (M,)."""
        before = offsets(kept.astype(np.int64))  # how many are kept before each object
        return replace(self._of_objects(np.flatnonzero(kept)), first=before[self.first])

    def _of_objects(self, chosen: Ints) -> Annotated:
        outlines = None if self.outlines is None else self.outlines.rows(chosen)
        names = ("boxes", "label", "crowd", "difficult", "area")
        return replace(self, outlines=outlines, **{name: getattr(self, name)[chosen] for name in names})


def offsets(lengths: Ints) -> Ints:
    """
    >>> offsets(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def ragged(first: Ints, positions: Ints) -> tuple[Ints, Ints]:
    """Of rows of different lengths one after the other: where the elements of some rows are, and their new `first`.

    >>> chosen, new = ragged(np.array([0, 2, 2, 5]), np.array([2, 1, 0]))
    >>> chosen.tolist(), new.tolist()
    ([2, 3, 4, 0, 1], [0, 3, 3, 5])
    """
    lengths = first[positions + 1] - first[positions]
    new = offsets(lengths)
    return np.repeat(first[positions] - new[:-1], lengths) + np.arange(new[-1]), new
