"""Objects that a model found in an image, in pixels of the image as a person has it, and as COCO writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainloop.contracts import Sample

Masks = NDArray[np.bool_]
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
        mask = self.prepared[number]
        if tuple(mask.shape) == self.size:
            whole: Masks = mask.numpy()
            return whole
        smooth = F.interpolate(mask[None, None].float(), self.size, mode="bilinear", align_corners=False)
        found: Masks = (smooth[0, 0] >= 0.5).numpy()
        return found

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
    rows = []
    for number, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True)):
        x0, y0, x1, y1 = found.boxes[number].tolist()
        row: dict[str, Any] = {"image_id": image_id, "file_name": file_name}
        row |= {"category_id": label + 1, "category": class_names[label]}
        row |= {"bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)], "score": round(score, 6)}
        if found.prepared is not None:
            row["segmentation"] = run_lengths(found.mask(number))
        rows.append(row)
    return rows


def run_lengths(mask: Masks) -> dict[str, Any]:
    """(H, W) -> COCO's compressed RLE, as JSON takes it."""
    from faster_coco_eval import mask as coco

    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [*mask.shape], "counts": code["counts"].decode()}
