"""What a pass over images with boxes tells a person: each image, each class, sizes, and why detections are wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.tasks.boxes.matches import (
    AGAIN,
    BADLY_PLACED,
    LEFT_OUT,
    NOTHING_THERE,
    RIGHT,
    WRONG_CLASS,
    matches_of,
)
from plainloop.tasks.details import Curves, Details, Table

Rows = NDArray[np.float64]

OBJECT = ("index", "label", "area", "found_score", "overlap", "taken_score", "taken_label")
DETECTION = ("index", "label", "area", "score", "kind")
MOST_ROWS = 2_000_000  # detections of one rank; a set with more, say 20,000 images with 100 each, has no tables
SCORES = np.arange(1, 100) / 100  # of which the best one is chosen
SIZES = {"small, below 32 x 32 pixels": 32.0**2, "medium, below 96 x 96": 96.0**2, "large": math.inf}
WHY = {
    WRONG_CLASS: "are at the place of an object of another class",
    AGAIN: "find once more what a surer one has found",
    BADLY_PLACED: "overlap an object of their class by less than a half",
    NOTHING_THERE: "are where nothing is",
}
MOST_PAIRS = 10
OF_MASKS = (
    " What is found, missed and invented is counted by the boxes around the objects, as is the overlap of each image; "
    "average precision (AP) and the curves are of the masks."
)
COLUMNS = ("objects", "found", "missed", "invented", "overlap")


def details_of(
    seen: Sequence[tuple[Batch, Batch]],
    class_names: Sequence[str],
    *,
    average_precision: Mapping[str, Sequence[float]],
    curves: Sequence[Curves] = (),
    of_masks: bool = False,
) -> Details:
    """Of pairs of detections and objects; everything is counted at the score where precision and recall are best.

    `average_precision` has a number for each class, under what a person calls it; `of_masks` says that these and the
    curves are of masks. Waits for the device. Collective.
    """
    own = [rows_of(found, real) for found, real in seen]
    parts = [torch.cat(tables) for tables in zip(*own, strict=True)]
    parts = parts or [torch.zeros(0, number, dtype=torch.float64) for number in (1, len(OBJECT), len(DETECTION))]
    if max(collectives.gather(len(parts[2]))) > MOST_ROWS:
        return Details(curves=curves)
    curves = [one for one in curves if one.lines]
    images, objects, detections = (sorted_rows(collectives.gather_rows(part)) for part in parts)
    score = best_score(objects, detections)
    sure = detections[detections[:, 3] >= score]
    about = (
        f"Counted are detections with a score of {score:g} or more: there precision (which share of the detections is "
        "right) and recall (which share of the objects is found) are best together (F1). A detection finds the object "
        "of its class that it overlaps most, by a half or more; of several detections, the surest."
        if len(sure)
        else f"Nothing was detected with a score of {score:g} or more."
    )
    about += OF_MASKS if of_masks else ""
    tables = [
        of_classes(objects, sure, score, class_names, average_precision),
        of_sizes(objects, sure, score),
        *([reasons(sure), mixed_up(objects, score, class_names)] if len(sure) else ()),
    ]
    samples = of_images(images[:, 0], objects, sure, score)
    return Details(COLUMNS, samples.tolist(), [one for one in tables if one.rows], curves, about, score)


def rows_of(found: Batch, real: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The images (B, 1), and a row for each counted object and each detection, on the host."""
    found, real = ({name: entry.cpu() for name, entry in one.items()} for one in (found, real))
    matches = matches_of(found, real)
    index = real["index"].double()
    scale = real["image_scale"].double() if "image_scale" in real else torch.ones_like(index)
    areas = [areas_of(one, scale) for one in (real, found)]
    labels = torch.cat([found["box_label"], found["box_label"].new_full((len(index), 1), -1)], dim=1)
    numbers = [index[:, None].expand_as(area) for area in areas]
    taken = labels.gather(1, matches.taken_by)
    of_objects = [numbers[0], real["box_label"], areas[0], matches.found_score, matches.overlap]
    objects = stacked([*of_objects, matches.taken_score, taken])[matches.counted]
    of_detections = [numbers[1], found["box_label"], areas[1], found["box_score"], matches.kind]
    return index[:, None], objects, stacked(of_detections)[matches.kind != LEFT_OUT]


def stacked(columns: Sequence[Tensor]) -> Tensor:
    return torch.stack([column.double() for column in columns], dim=-1)


def areas_of(objects: Batch, scale: Tensor) -> Tensor:
    """(B, N): in pixels of the files."""
    if "box_area" in objects:
        return objects["box_area"].double()
    sides = (objects["boxes"][..., 2:] - objects["boxes"][..., :2]).double() / scale[:, None, None]
    return sides.prod(-1)


def sorted_rows(rows: Tensor) -> Rows:
    """By the images; within an image as they were."""
    return np.asarray(rows.numpy()[rows[:, 0].argsort(stable=True).numpy()])


def best_score(objects: Rows, detections: Rows) -> float:
    """Of SCORES the lowest with the best F1: twice the right detections among all detections and all objects.

    >>> object, right, wrong = np.array([[0, 0, 9, 0.8, 1, -1, -1]]), [0, 0, 9, 0.8, RIGHT], [0, 0, 9, 0.4, AGAIN]
    >>> best_score(object, np.array([right, wrong]))
    0.41
    """
    right = np.sort(detections[detections[:, 4] == RIGHT, 3])
    every = np.sort(detections[:, 3])
    num_right, num_every = (len(scores) - np.searchsorted(scores, SCORES) for scores in (right, every))
    f1 = 2 * num_right / np.maximum(1, num_every + len(objects))
    return float(SCORES[int(f1.argmax())])


def of_images(index: Rows, objects: Rows, sure: Rows, score: float) -> Rows:
    """(images, 1 + COLUMNS); the overlap is the mean over the found objects, NaN without any."""
    found = objects[objects[:, 3] >= score]
    num = [counts_by(index, rows[:, 0]) for rows in (objects, found, sure)]
    shared = np.bincount(np.searchsorted(index, found[:, 0]), found[:, 4], minlength=len(index))
    overlap = np.where(num[1] > 0, shared / np.maximum(num[1], 1), math.nan)
    return np.stack([index, num[0], num[1], num[0] - num[1], num[2] - num[1], overlap], axis=1)


def counts_by(values: Rows, among: Rows) -> NDArray[np.int64]:
    """How often each of the sorted values occurs."""
    return np.bincount(np.searchsorted(values, among), minlength=len(values))


def of_classes(
    objects: Rows,
    sure: Rows,
    score: float,
    class_names: Sequence[str],
    average_precision: Mapping[str, Sequence[float]],
) -> Table:
    """The classes with objects or detections; the last of `average_precision` decides about their order."""
    found = objects[objects[:, 3] >= score]
    numbers = np.arange(len(class_names), dtype=np.float64)
    there, hit, said = (counts_by(numbers, rows[:, 1]) for rows in (objects, found, sure))
    name, values = list(average_precision.items())[-1]
    order = sorted(range(len(class_names)), key=lambda i: (math.isnan(values[i]), values[i], i))
    rows = [
        (class_names[i], int(there[i]), *of_class, int(hit[i]), int(there[i] - hit[i]), int(said[i] - hit[i]))
        for i in order
        if there[i] or said[i]
        for of_class in [[known(of_all[i]) for of_all in average_precision.values()]]
    ]
    heads = ("class", "objects", *average_precision, "found", "missed", "invented")
    return Table(f"Classes, the lowest average precision ({name}) first", heads, rows)


def of_sizes(objects: Rows, sure: Rows, score: float) -> Table:
    rows = []
    for (name, below), least in zip(SIZES.items(), (0.0, *SIZES.values()), strict=False):
        mine, detections = (part[(least <= part[:, 2]) & (part[:, 2] < below)] for part in (objects, sure))
        found, wrong = int((mine[:, 3] >= score).sum()), int((detections[:, 4] != RIGHT).sum())
        rows.append(
            (name, len(mine), found, len(mine) - found, known(found / len(mine) if len(mine) else math.nan), wrong)
        )
    heads = ("size in the image file", "objects", "found", "missed", "share found", "invented")
    return Table("What was found and missed, by size", heads, rows)


def reasons(sure: Rows) -> Table:
    rows = [(text, int((sure[:, 4] == kind).sum())) for kind, text in WHY.items()]
    return Table("What was invented, and why it is wrong", ("detections that", "number"), rows)


def mixed_up(objects: Rows, score: float, class_names: Sequence[str]) -> Table:
    """Objects that were not found, where a detection of another class is: the most frequent pairs."""
    taken = objects[(objects[:, 3] < score) & (objects[:, 5] >= score)]
    pairs, number = np.unique(taken[:, [1, 6]].astype(int), axis=0, return_counts=True)
    order = sorted(range(len(pairs)), key=lambda i: (-number[i], *pairs[i]))[:MOST_PAIRS]
    rows = [(*(class_names[one] for one in pairs[i]), int(number[i])) for i in order]
    return Table("Missed, and taken for another class most often", ("class", "taken for", "objects"), rows)


def known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def precision_curves(
    lines: Mapping[str, Sequence[float]],
    recalls: Sequence[float],
    *,
    overlap: float,
    of_masks: bool = False,
    most: int = 12,
) -> Curves:
    """Precision at each recall, of at most so many classes: those with the highest and the lowest means; and the mean
    over all classes, those of which nothing was found as well: its own mean is then the mean AP.
    """
    order = sorted((name for name in lines if max(lines[name]) > 0), key=lambda name: -float(np.mean(lines[name])))
    several = len(lines) > 1 and order
    every = {"mean of the classes": np.mean(list(lines.values()), axis=0).tolist()} if several else {}
    shown = order if len(order) <= most else order[: most // 2] + order[-(most // 2) :]
    every |= {name: lines[name] for name in shown}
    title = f"Precision over recall{' of masks' if of_masks else ''}, at an overlap of {overlap:g}"
    return Curves(title, "recall", "precision", {name: list(reached(recalls, line)) for name, line in every.items()})


def reached(recalls: Sequence[float], precision: Sequence[float]) -> Iterator[tuple[float, float]]:
    """The curve as far as the recall is reached; beyond, the precision counts as 0."""
    for recall, value in zip(recalls, precision, strict=True):
        yield round(float(recall), 4), round(float(value), 6)
        if value <= 0:
            return


def class_precisions(precision: Any, class_names: Sequence[str]) -> dict[str, list[float]]:
    """Of (recalls, classes): the lines of the classes that have objects."""
    return {name: precision[:, i].tolist() for i, name in enumerate(class_names) if (precision[:, i] > -1).any()}
