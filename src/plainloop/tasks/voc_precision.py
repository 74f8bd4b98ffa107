"""How well boxes are found: Pascal VOC's mean average precision, over all ranks."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.tasks.boxes.details import details_of, precision_curves
from plainloop.tasks.boxes.resampled import Judged, area_under, at_recalls, mean_of_numbers, precision_and_recall
from plainloop.tasks.details import Details
from plainloop.tasks.totals import share

RECALLS = [number / 100 for number in range(101)]  # of a drawn curve
TENTHS = np.arange(11) / 10
Right = tuple[list[bool], int]  # whether each detection of a class is right, the surest first; its objects
Found = tuple[float, int, int, float]  # score, number of the image, nearest object of its class, overlap with it


class VocPrecision:
    """map, the mean over classes that have objects, and ap/<name> for each of `names`, at an overlap of 0.5.

    A detection counts as right when of all objects of its class the one that it overlaps most is not taken yet. Objects
    with box_difficult (B, N) count neither as found nor as missed (the development kit of VOC 2007 and 2012).

    Args:
        points: "11": the mean of the best precision at recalls of 0, 0.1, ..., 1 (VOC 2007); "area": the area under the
            curve (VOC 2010 and later).
        class_names: for `details`; numbers without them.
        overlap: least intersection over union, above 0. VOC's own code adds a pixel to widths and heights; here a box
            ends where its last pixel ends.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        names: Sequence[str] = (),
        class_names: Sequence[str] = (),
        points: Literal["11", "area"] = "area",
        overlap: float = 0.5,
    ) -> None:
        self.num_classes, self.names, self.points, self.overlap = num_classes, names, points, overlap
        self.class_names = tuple(class_names) or tuple(map(str, range(num_classes)))
        self._judged: list[Judged] = []  # of each class, after `compute`
        self._indices: list[int] = []  # of the images, then
        self._seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def update(self, prediction: Batch, batch: Batch) -> None:
        """Keeps both where they are. Neither waits for the device nor communicates."""
        wanted = ("boxes", "box_label", "box_valid", "box_difficult", "box_area", "box_score", "image_scale", "index")
        found, real = ({name: one[name].detach() for name in wanted if name in one} for one in (prediction, batch))
        self._seen.append((found, real))

    def compute(self) -> dict[str, float]:
        """Collective: every rank gets the detections of all. Waits for the device."""
        own = [image for seen in self._seen for image in plain(*seen)]
        everywhere = [image for part in collectives.gather(own) for image in part]
        images = {image["index"]: image for image in everywhere}
        self._indices = sorted(images)
        in_order = [images[index] for index in self._indices]
        self._judged = [self._of_class(in_order, number) for number in range(self.num_classes)]
        precisions = [precision_of(*one, self.points) if one[1] else math.nan for one in self._right()]
        met = [value for value in precisions if not math.isnan(value)]
        values = {"map": share(math.fsum(met), len(met))}
        return values | {f"ap/{name}": precisions[number] for number, name in enumerate(self.names)}

    def details(self) -> Details:
        """Collective."""
        lines = {name: line_of(*one) for name, one in zip(self.class_names, self._right(), strict=True) if one[1]}
        found = [precision_of(*one, self.points) if one[1] else math.nan for one in self._right()]
        curves = [precision_curves(lines, RECALLS, overlap=self.overlap)] if lines else []
        return details_of(
            self._seen, self.class_names, average_precision={f"AP {self.overlap:g}": found}, curves=curves
        )

    def resampled(self, times: Callable[[Any], Any]) -> dict[str, Any]:
        how_often = times(np.array(self._indices, dtype=np.int64))
        mean = area_under if self.points == "area" else functools.partial(at_recalls, recalls=TENTHS)
        values = np.stack([precision_and_recall(one, how_often, mean)[0][0] for one in self._judged])
        of_classes = {f"ap/{name}": values[number] for number, name in enumerate(self.names)}
        return {"map": mean_of_numbers(values)} | of_classes

    def _right(self) -> list[Right]:
        return [(one.right[~one.left_out].tolist(), int(one.num_objects.sum())) for one in self._judged]

    def _of_class(self, images: Sequence[dict[str, Any]], label: int) -> Judged:
        num_objects = [sum(one["label"] == label and not one["difficult"] for one in image["real"]) for image in images]
        found: list[Found] = [
            (one["score"], number, one["nearest"], one["overlap"])
            for number, image in enumerate(images)
            for one in image["found"]
            if one["label"] == label
        ]
        found.sort(key=lambda one: -one[0])  # stable: equal scores stay in the order of the images
        taken: set[tuple[int, int]] = set()
        right, left_out = np.zeros((2, 1, len(found)), np.bool_)
        for place, (_, number, best, overlap) in enumerate(found):
            if overlap < self.overlap:
                continue
            if images[number]["real"][best]["difficult"]:
                left_out[0, place] = True
            else:
                right[0, place] = (number, best) not in taken
                taken.add((number, best))
        numbers = np.array([number for _, number, _, _ in found], dtype=np.int64)
        return Judged(numbers, right, left_out, np.array(num_objects, dtype=np.float64))


def precision_of(right: Sequence[bool], num_objects: int, points: Literal["11", "area"]) -> float:
    """Average precision of detections, the surest first.

    >>> precision_of([True, False, True], 2, "area"), precision_of([True, False, True], 2, "11")
    (0.8333333333333333, 0.8484848484848485)
    """
    curve = curve_of(right, num_objects)
    if points == "11":
        at = [next((p for recall, p in curve if recall >= tenth / 10), 0.0) for tenth in range(11)]
        return math.fsum(at) / 11
    before = [0.0, *(recall for recall, _ in curve)]
    return math.fsum((recall - last) * p for last, (recall, p) in zip(before, curve, strict=False))


def curve_of(right: Sequence[bool], num_objects: int) -> list[tuple[float, float]]:
    """The recall after each detection, with the best precision at this recall or a larger one."""
    hits, curve = 0, []
    for number, is_right in enumerate(right, start=1):
        hits += is_right
        curve.append((hits / num_objects, hits / number))
    for i in range(len(curve) - 2, -1, -1):
        curve[i] = (curve[i][0], max(curve[i][1], curve[i + 1][1]))
    return curve


def line_of(right: Sequence[bool], num_objects: int) -> list[float]:
    """The best precision at each of RECALLS or a larger one."""
    recalls, precisions = zip(*curve_of(right, num_objects), strict=True) if right else ((), ())
    places = [bisect.bisect_left(recalls, recall) for recall in RECALLS]
    return [precisions[place] if place < len(precisions) else 0.0 for place in places]


def plain(found: dict[str, Tensor], real: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Of each image what is counted: detections (found) and objects (real)."""
    found, real = ({name: tensor.cpu() for name, tensor in one.items()} for one in (found, real))
    place, overlap = nearest(found, real)
    difficult = real.get("box_difficult", torch.zeros_like(real["box_valid"]))
    columns = {
        "found": {"label": found["box_label"], "score": found["box_score"], "nearest": place, "overlap": overlap},
        "real": {"label": real["box_label"], "difficult": difficult},
    }
    images: list[dict[str, Any]] = [{"index": index} for index in real["index"].tolist()]
    for side, valid in (("found", found["box_valid"]), ("real", real["box_valid"])):
        for row, image in enumerate(images):
            values = [column[row][valid[row]].tolist() for column in columns[side].values()]
            image[side] = [dict(zip(columns[side], one, strict=True)) for one in zip(*values, strict=True)]
    return images


def nearest(found: dict[str, Tensor], real: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, D) each: the object of its class that a detection overlaps most, of equal ones the first, by its place among
    the valid ones of the image; and by how much, 0 where there is none.
    """
    pairs = zip(found["boxes"].double(), real["boxes"].double(), strict=True)
    overlaps = torch.stack([box_iou(one, other) for one, other in pairs]).nan_to_num()
    same = (found["box_label"][:, :, None] == real["box_label"][:, None]) & real["box_valid"][:, None]
    overlaps = torch.where(same, overlaps, 0.0)
    best = torch.from_numpy(overlaps.numpy().argmax(2))
    places = real["box_valid"].cumsum(1) - 1
    return places.gather(1, best), overlaps.gather(2, best[..., None])[..., 0]
