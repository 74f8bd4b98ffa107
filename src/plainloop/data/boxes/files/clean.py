"""From what annotations say to what can be trained on: the chosen classes, and boxes inside of their images."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plainloop.data.boxes.annotations import Annotated
from plainloop.data.loading.layout import quoted
from plainloop.errors import BadData, counted


@dataclass(frozen=True)
class Part:
    """One split as its annotations say it: boxes may be flat or outside, labels are numbers into its own names."""

    where: str  # the file or folder, for messages
    class_names: tuple[str, ...]
    annotated: Annotated
    notes: tuple[str, ...] = ()  # for the plan
    parents: frozenset[str] = frozenset()  # names that group other classes


def with_sizes(root: Path, annotated: Annotated) -> Annotated:
    """Asks the files of images whose size the annotations do not say; 0 stays where a file cannot be read."""
    unknown = np.flatnonzero((annotated.sizes == 0).any(1))
    if not len(unknown):
        return annotated
    from plainloop.data.loading.decode import stored_size

    sizes = annotated.sizes.copy()
    for index in unknown.tolist():
        if (size := stored_size(root / os.fsdecode(annotated.images[index]))) is not None:
            sizes[index] = size  # as stored, which is what boxes are for: see BoxedImages
    return replace(annotated, sizes=sizes)


def of_classes_in(part: Part, class_names: tuple[str, ...], *, leave_out_others: bool) -> tuple[Annotated, list[str]]:
    """The objects of these classes, with their labels. Raises BadData for objects of others that are not expected."""
    number_of = {name: number for number, name in enumerate(class_names)}
    table = np.array([number_of.get(name, -1) for name in part.class_names] or [-1], np.int64)
    label = table[part.annotated.label]
    others = np.bincount(part.annotated.label[label < 0], minlength=len(part.class_names))
    named = [f"{name} ({others[number]:,})" for number, name in enumerate(part.class_names) if others[number]]
    if named and not leave_out_others:
        raise BadData(
            f"{part.where} has objects of classes that are not among the {len(class_names)} of training: "
            f"{quoted(named, 5)}; those are {quoted(class_names, 5)}",
            hint="rename them where they are misspelt, or choose classes: "
            f"data.class_names=[{','.join(class_names[:2])},...]",
        )
    notes = [f"not used: objects of other classes: {quoted(named, 3)}"] if named else []
    return replace(part.annotated, label=label).only(label >= 0), notes


def cleaned(annotated: Annotated) -> tuple[Annotated, list[str]]:
    """Boxes cut at the edges of their images; those without a width or a height, before or after, are left out."""
    sizes = np.repeat(annotated.sizes[:, ::-1], np.diff(annotated.first), axis=0)
    limits = np.tile(np.where(sizes > 0, sizes, np.inf), 2)
    boxes = np.clip(annotated.boxes, 0, limits).astype(np.float32)
    flat, nothing = has_no_area(annotated.boxes), has_no_area(boxes)
    moved = (np.abs(boxes - annotated.boxes) > 1).any(1)
    notes = [
        f"{counted(int(which.sum()), 'box').replace('boxs', 'boxes')} {what}"
        for which, what in (
            (flat, "without a width or a height, left out"),
            (nothing & ~flat, "outside of the image, left out"),
            (moved & ~nothing, "more than a pixel over the edge of the image, cut off there"),
        )
        if which.any()
    ]
    return replace(annotated, boxes=boxes).only(~nothing), notes


def has_no_area(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray((boxes[:, 2:] <= boxes[:, :2]).any(1))
