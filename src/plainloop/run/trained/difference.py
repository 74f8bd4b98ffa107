"""How far the outputs of an exported model are from those of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainloop.errors import RunError

Arrays = dict[str, NDArray[Any]]  # outputs by name
EDGE = 1e-4  # of a score: so near to where detections are dropped, it may fall on either side


@dataclass(frozen=True)
class Difference:
    most: float  # the largest one; of whole numbers the share of values that differ
    largest: float  # value; of whole numbers 1
    text: str

    def is_within(self, tolerance: float) -> bool:
        return self.most <= tolerance * max(1.0, self.largest)


def differences(ours: Arrays, theirs: Arrays, *, threshold: float = -1.0) -> dict[str, Difference]:
    """By output. Raises RunError for outputs of another shape.

    `threshold` is the score below which the model drops detections; those at it are not compared.
    """
    ours = with_rows_of(ours, theirs)
    for name, own in ours.items():
        if own.shape != theirs[name].shape:
            raise RunError(f"the exported model gives {name} {theirs[name].shape} where the model gives {own.shape}")
    if "boxes" in ours:
        theirs = in_the_same_order(ours, theirs)
        at_it = at_the_edge(ours, theirs, threshold)
        theirs = {name: values.copy() for name, values in theirs.items()}
        for name in of_objects(ours):
            theirs[name][at_it] = ours[name][at_it]
    return {name: difference(name, own, theirs[name]) for name, own in ours.items()}


def num_compared(ours: Arrays, theirs: Arrays, threshold: float) -> int:
    """The detections of the first that `differences` compares."""
    ours = with_rows_of(ours, theirs)
    return int((ours["box_valid"] & ~at_the_edge(ours, theirs, threshold)).sum())


def difference(name: str, own: NDArray[Any], other: NDArray[Any]) -> Difference:
    if not np.issubdtype(own.dtype, np.floating):
        share = float((own != other).sum() / max(1, own.size))
        return Difference(share, 1.0, f"{share:.2%} of {name}")
    most, largest = (float(np.abs(values).max(initial=0)) for values in (own - other, own))
    return Difference(most, largest, f"{most:.2g} in {name}")


def with_rows_of(ours: Arrays, theirs: Arrays) -> Arrays:
    """The first detections with rows of 0 after them, as many as the second have: a model may give fewer rows."""
    if "boxes" not in ours:
        return ours
    more = max(0, theirs["boxes"].shape[1] - ours["boxes"].shape[1])
    rows = {name: [(0, 0), (0, more)] + [(0, 0)] * (ours[name].ndim - 2) for name in of_objects(ours)}
    return ours | {name: np.pad(ours[name], widths) for name, widths in rows.items()}


def of_objects(outputs: Arrays) -> list[str]:
    """The outputs with a row for each detection."""
    return [name for name in outputs if name.startswith("box") or name == "instance_mask"]


def in_the_same_order(ours: Arrays, theirs: Arrays) -> Arrays:
    """The second detections, each in the place of the one of the first that is most like it.

    They stand by their scores, and where two are nearly equal, the last bit says which is the first.
    """
    names = of_objects(ours)
    found = {name: theirs[name].copy() for name in names}
    compared = [name for name in names if name != "instance_mask"]  # too large
    for image, number in np.ndindex(ours["box_valid"].shape):
        # How unlike each one is that has no place yet: the numbers of a detection, all in one row.
        unlike = sum(
            np.abs(np.float64(found[name][image, number:]) - np.float64(ours[name][image, number]))
            .reshape(len(found[name][image, number:]), -1)
            .sum(1)
            for name in compared
        )
        other = number + int(np.argmin(unlike))
        for name in names:
            found[name][image, [number, other]] = found[name][image, [other, number]]
    return theirs | found


def at_the_edge(ours: Arrays, theirs: Arrays, threshold: float) -> NDArray[np.bool_]:
    """The rows (B, N) that the last bit of a score lets in or leaves out.

    They are at the threshold, or the lowest ones of an image with as many detections as there are rows.
    """
    is_full = (ours["box_valid"] & theirs["box_valid"]).all(1)
    cut = np.where(is_full, ours["box_score"].min(1, initial=1.0), threshold)[:, None]
    return np.asarray(np.abs(np.maximum(ours["box_score"], theirs["box_score"]) - cut) <= EDGE)
