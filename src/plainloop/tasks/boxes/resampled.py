"""Average precision when each image counts more or less often, for many choices at once: it is no sum over images.

What a detection is, right or wrong, does not depend on the choice; only how often it counts does.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Mean = Callable[[Floats, Floats], float]  # of a curve: recalls that rise, and the best precision at each

MOST_NUMBERS = 2**24  # of one array: choices times detections
AREAS = ("map", "map_small", "map_medium", "map_large")  # in the order of COCO's ranges
MOST_DETECTIONS = 100  # of a class in an image


@dataclass(frozen=True)
class Judged:
    """The detections of one class, the surest first."""

    image: NDArray[np.int64]  # (D,): the number of its image
    right: Flags  # (T, D): at each overlap
    left_out: Flags  # (T, D): it counts neither as right nor as wrong
    num_objects: Floats  # (images,)


def coco_resampled(evaluation: Any, indices: Sequence[int], times: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """COCO's numbers for each choice: times (S, images) says how often it has each of the images `indices`."""
    mean = functools.partial(at_recalls, recalls=np.array(evaluation.params.recThrs))
    of_class = []  # for each class: of each area the average precision, (areas, S); map50, map75 and mar, (S,)
    for judged in judged_classes(evaluation, {index: number for number, index in enumerate(indices)}):
        measured = [precision_and_recall(one, times, mean) for one in judged]
        every = measured[0][0]  # (T, S)
        of_class.append([*(precision.mean(0) for precision, _ in measured), every[0], every[5], measured[0][1].mean(0)])
    values = np.array(of_class).transpose(1, 0, 2)  # (numbers, classes, S)
    found = {name: mean_of_numbers(part) for name, part in zip((*AREAS, "map50", "map75", "mar"), values, strict=True)}
    return found | {f"ap/{name}": values[0, number] for number, name in enumerate(names)}


def mean_of_numbers(values: Floats) -> Floats:
    """Over the classes (classes, S), without those that a choice has no object of; NaN where it has none of any."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(1, known.sum(0)), np.nan)


def precision_and_recall(one: Judged, times: Floats, mean: Mean) -> tuple[Floats, Floats]:
    """(T, S) each: the mean of the best precisions, and the recall with all detections."""
    precision, recall = np.empty((2, len(one.right), len(times)))
    rows = max(1, MOST_NUMBERS // max(1, len(one.image)))
    for first in range(0, len(times), rows):
        part = slice(first, first + rows)
        weights = times[part][:, one.image]
        objects = times[part] @ one.num_objects
        for overlap, (right, left_out) in enumerate(zip(one.right, one.left_out, strict=True)):
            curve = curve_of(weights, objects, right, left_out)
            precision[overlap, part] = [mean(*line) for line in zip(*curve, strict=True)]
            recall[overlap, part] = curve[0][:, -1] if curve[0].shape[1] else np.where(objects > 0, 0.0, np.nan)
            precision[overlap, part][objects == 0] = np.nan
            recall[overlap, part][objects == 0] = np.nan
    return precision, recall


def curve_of(weights: Floats, objects: Floats, right: Flags, left_out: Flags) -> tuple[Floats, Floats]:
    """Recall at each right detection, (S, right ones), and the best precision there or later: it falls in between."""
    said = np.cumsum(weights * ~left_out, axis=1)[:, right & ~left_out]
    hits = np.cumsum(weights[:, right & ~left_out], axis=1)
    precision = hits / np.maximum(said, np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return hits / np.maximum(objects, np.spacing(1))[:, None], best


def at_recalls(recall: Floats, precision: Floats, *, recalls: Floats) -> float:
    """The mean of the best precisions at these recalls."""
    places = np.searchsorted(recall, recalls, side="left")
    return float(np.append(precision, 0.0)[places].mean())


def area_under(recall: Floats, precision: Floats) -> float:
    return float(np.diff(recall, prepend=0.0) @ precision)


def judged_classes(evaluation: Any, numbers: Mapping[int, int]) -> list[list[Judged]]:
    """Of each class and each range of areas, from COCO's code after it has measured; `numbers` of the images."""
    params = evaluation.params
    real, found = (by_image_and_class(side.anns.values()) for side in (evaluation.cocoGt, evaluation.cocoDt))
    classes = []
    for category in params.catIds:
        keys = [(index, category) for index in numbers]
        parts = [judged(real[key], found[key], evaluation.ious[key], params) for key in keys]
        scores, rights, left_outs, num_objects = zip(*parts, strict=True)
        order = (-np.concatenate(scores)).argsort(kind="stable")
        image = np.repeat(np.arange(len(parts)), [len(one) for one in scores])[order]
        right, left_out = (np.concatenate(flags, axis=2)[..., order] for flags in (rights, left_outs))
        objects = np.array(num_objects, dtype=np.float64)
        classes.append([Judged(image, right[a], left_out[a], objects[:, a]) for a in range(len(params.areaRng))])
    return classes


def by_image_and_class(annotations: Iterable[Any]) -> dict[tuple[int, int], list[Any]]:
    found = defaultdict(list)
    for one in annotations:
        found[one["image_id"], one["category_id"]].append(one)
    return found


def judged(
    real: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], overlaps: Any, params: Any
) -> tuple[Floats, Flags, Flags, NDArray[np.int64]]:
    """One class in one image: scores (D,), right and left_out (areas, overlaps, D), and how many objects (areas,).

    In the order of their scores, each detection takes the free object that it overlaps most; one that does not count
    only where there is no other (pycocotools' evaluateImg).
    """
    low, high = np.array(params.areaRng, dtype=np.float64).T[..., None]
    found = sorted(found, key=lambda one: -one["score"])[:MOST_DETECTIONS]
    crowd = np.array([bool(one["iscrowd"]) for one in real], dtype=np.bool_)
    area = np.array([one["area"] for one in real], dtype=np.float64)
    ignored = crowd | (area < low) | (area > high)  # (areas, objects)
    sizes = np.array([one["area"] for one in found], dtype=np.float64)
    right = np.zeros((len(low), len(params.iouThrs), len(found)), np.bool_)
    left_out = right.copy()
    taken = np.zeros((*right.shape[:2], len(real)), np.bool_)
    least = np.minimum(params.iouThrs, 1 - 1e-10)[:, None]
    overlaps = np.array(overlaps, dtype=np.float64).reshape(len(found), len(real))
    for d in np.flatnonzero((overlaps >= least.min()).any(1)):
        fits = (overlaps[d] >= least) & (~taken | crowd)
        counted = fits & ~ignored[:, None]
        fits = np.where(counted.any(-1, keepdims=True), counted, fits)
        best = len(real) - 1 - np.where(fits, overlaps[d], -1.0)[..., ::-1].argmax(-1)  # of equal ones the last
        is_ignored = np.take_along_axis(ignored, best, axis=1)
        met = fits.any(-1)
        right[..., d], left_out[..., d] = met & ~is_ignored, met & is_ignored
        np.put_along_axis(taken, best[..., None], np.take_along_axis(taken, best[..., None], 2) | met[..., None], 2)
    outside = (sizes < low) | (sizes > high)
    left_out |= ~right & ~left_out & outside[:, None]
    return np.array([one["score"] for one in found]), right, left_out, (~ignored).sum(1)
