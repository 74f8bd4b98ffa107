"""Objects that a model found in an image, in pixels of the image as a person has it, and as COCO writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plainloop.contracts import Sample
from plainloop.tasks.boxes.runs import Masks, codes_from, regions_of

MOST_TOLD = 5  # objects in a line


@dataclass(frozen=True)
class Found:
    """The objects of one image, the best first."""

    boxes: NDArray[np.float32]  # (N, 4) x0 y0 x1 y1, inside of the image
    labels: NDArray[np.int64]  # (N,)
    scores: NDArray[np.float32]  # (N,)
    size: tuple[int, int]  # height and width of the image
    factors: tuple[float, float]  # x and y: pixels that the model saw for each of the image
    prepared: Tensor | None  # (N, h, w) bool: the masks in those pixels; None: the model gives none

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, number: int) -> Masks:
        """(H, W): the pixels of one object."""
        assert self.prepared is not None
        whole = np.zeros(self.size, np.bool_)
        for part in regions_of(self.prepared[number : number + 1].numpy(), self.size):
            width, height = part.columns.shape
            whole[part.top : part.top + height, part.left : part.left + width] = part.columns.T
        return whole

    def chosen(self, which: NDArray[Any]) -> Found:
        """Those for which (N,) is true; or those with these numbers, in their order."""
        prepared = None if self.prepared is None else self.prepared[which]
        return Found(self.boxes[which], self.labels[which], self.scores[which], self.size, self.factors, prepared)

    def names(self, class_names: Sequence[str]) -> tuple[str, ...]:
        return tuple(class_names[label] for label in self.labels)


def found_in(result: Sample, seen: Sequence[int], size: Sequence[int], *, letterboxed: bool) -> Found:
    """The valid objects of a prediction for one image; boxes are clipped to it, and go where nothing is left.

    Args:
        result: boxes (D, 4) in pixels of the prepared image, box_label, box_score and box_valid (D,); instance_mask
            (D, h, w) bool where there are masks. On the host.
        seen: height and width of the prepared image.
        size: height and width of the image before.
        letterboxed: see `Preprocessing`.
    """
    down, across = (after / before for after, before in zip(seen, size, strict=True))
    down, across = (min(down, across),) * 2 if letterboxed else (down, across)
    limits = np.array([size[1], size[0]] * 2, np.float32)
    factors = np.array([across, down] * 2, np.float32)
    boxes: NDArray[np.float32] = np.clip(result["boxes"].float().numpy() / factors, 0, limits)
    masks = result.get("instance_mask")
    if masks is not None and letterboxed:
        rows, columns = (max(1, round(length * down)) for length in size)
        masks = masks[:, :rows, :columns]
    every = Found(
        boxes,
        result["box_label"].numpy(),
        result["box_score"].float().numpy(),
        (size[0], size[1]),
        (across, down),
        masks,
    )
    there = every.chosen(result["box_valid"].numpy() & (boxes[:, 2:] > boxes[:, :2]).all(1))
    order = np.argsort(-there.scores, kind="stable")
    return there.chosen(order)


def told(names: Sequence[str], scores: Sequence[float]) -> str:
    """Objects in words, the best first.

    >>> told(["dog", "cat"], [0.931, 0.5]), told([], [])
    ('2 objects: dog 0.93, cat 0.50', 'no objects')
    """
    if not names:
        return "no objects"
    words = [f"{name} {score:.2f}" for name, score in list(zip(names, scores, strict=True))[:MOST_TOLD]]
    more = ", ..." if len(names) > MOST_TOLD else ""
    return f"{len(names)} object{'s' * (len(names) > 1)}: {', '.join(words)}{more}"


def as_coco(found: Found, image_id: int, file_name: str, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each object, as COCO wants results; the names of the file and of the class stand beside the numbers.

    `bbox` is x, y, width and height in pixels; `category_id` counts the classes from 1; `segmentation` is a mask in
    COCO's compressed run lengths.
    """
    masks, rows = found.prepared, []
    codes = [] if masks is None else codes_from(regions_of(masks.numpy(), found.size), found.size)
    for number, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True)):
        x0, y0, x1, y1 = found.boxes[number].tolist()
        row: dict[str, Any] = {"image_id": image_id, "file_name": file_name}
        row |= {"category_id": label + 1, "category": class_names[label]}
        row |= {"bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)], "score": round(score, 6)}
        if codes:
            row["segmentation"] = codes[number]
        rows.append(row)
    return rows
