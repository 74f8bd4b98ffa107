"""What the best evaluation found: classes, what is taken for what, and the worst samples as pictures."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from plainloop.loggers.numbers import score
from plainloop.report import figures, page
from plainloop.report.pictures import colour, drawn
from plainloop.report.run.objects import has_objects, pair
from plainloop.report.run.read import Run
from plainloop.run_dir.evaluation import Evaluation
from plainloop.tasks.details import Table

MOST_IN_MATRIX = 25  # classes; of more, the pairs that are confused most often are listed
MOST_PAIRS = 20
SIDE = 288  # pixels


@dataclass(frozen=True)
class Classes:
    heads: list[str]
    rows: list[list[str]]  # the worst class first
    matrix: list[list[tuple[int, float]]] | None  # count and share of the row, row by row
    pairs: list[tuple[str, str, int]]  # label, prediction, count: the most frequent first
    names: list[str]
    colours: list[str] = field(default_factory=list)  # of the rows, as pictures tint masks


def tables_of(found: Evaluation) -> list[tuple[Table, list[int]]]:
    """Those of the task, in words; and which of their columns are numbers."""
    tables = []
    for one in found.details.tables:
        numbers = [
            i
            for i in range(len(one.heads))
            if not any(isinstance(cell, str) for row in one.rows for cell in row[i : i + 1])
        ]
        tables.append((replace(one, rows=[[_in_words(cell) for cell in row] for row in one.rows]), numbers))
    return tables


def _in_words(cell: str | float | None) -> str:
    if cell is None or isinstance(cell, str):
        return "–" if cell is None else cell
    return f"{cell:,}" if isinstance(cell, int) else score(cell)


def drawings_of(found: Evaluation) -> list[tuple[str, str, str]]:
    """Title, drawing and key of each set of curves; a name has the same colour in all of them."""
    names = list(dict.fromkeys(name for one in found.details.curves for name in one.lines))
    colours = {name: _line_colour(i, len(names)) for i, name in enumerate(names)}
    drawings = []
    for one in found.details.curves:
        lines = [(name, line, colours[name]) for name, line in one.lines.items()]
        shown = figures.curves([figures.Curve(*line) for line in lines], x=one.x)
        key = page.key([(figures.colour(number), name) for name, _, number in lines if number is not None])
        drawings.append((one.title, shown, key))
    return drawings


def _line_colour(number: int, num_lines: int) -> int | None:
    """The first lines and the last one have colours; those between them are faint."""
    most = figures.NUM_COLOURS
    if num_lines <= most or number < most // 2:
        return number
    return number - num_lines + most if number >= num_lines - most // 2 else None


@dataclass(frozen=True)
class Shown:
    pictures: list[str]  # data URIs, side by side
    small: bool  # enlarged without smoothing
    lines: list[str]


def classes_of(run: Run, found: Evaluation) -> Classes | None:
    if found.pixels is not None:
        return _of_pixels(run, found.pixels)
    if {"label", "prediction", "loss"} <= set(found.columns):
        return _of_labels(run, found)
    return None


def _of_labels(run: Run, found: Evaluation) -> Classes:
    names = run.class_names
    number = len(names)
    label, prediction = (np.nan_to_num(found.column(name), nan=-1).astype(int) for name in ("label", "prediction"))
    inside = (label >= 0) & (label < number) & (prediction >= 0) & (prediction < number)
    label, prediction, loss = label[inside], prediction[inside], found.column("loss")[inside]
    right = np.bincount(label[label == prediction], minlength=number)
    there, said = np.bincount(label, minlength=number), np.bincount(prediction, minlength=number)
    losses = np.bincount(label, np.nan_to_num(loss), minlength=number)
    order = sorted(range(number), key=lambda i: (right[i] / there[i] if there[i] else math.inf, i))
    rows = [
        [names[i], f"{there[i]:,}", _share(right[i], there[i]), _share(right[i], said[i]), _mean(losses[i], there[i])]
        for i in order
    ]
    both, counts = np.unique(label * number + prediction, return_counts=True)
    wrong = [(int(c), *divmod(int(b), number)) for b, c in zip(both, counts) if b // number != b % number]
    pairs = [(names[i], names[j], c) for c, i, j in sorted(wrong, key=lambda one: (-one[0], one[1:]))[:MOST_PAIRS]]
    matrix = None
    if number <= MOST_IN_MATRIX:
        table = np.zeros(number * number, int)
        table[both] = counts
        matrix = [
            [(int(c), float(c) / max(1, int(there[i]))) for c in row] for i, row in enumerate(table.reshape(number, -1))
        ]
    heads = ["class", "images", "accuracy", "precision", "mean loss"]
    return Classes(heads, rows, matrix, pairs, names)


def _of_pixels(run: Run, pixels: Any) -> Classes:
    rows = []
    for number, (right, there, said) in enumerate(pixels):
        either = there + said - right
        if either > 0:
            iou = right / either
            cells = [f"{there / max(1, pixels[:, 1].sum()):.1%}", score(iou), _share(right, there), _share(right, said)]
            rows.append((iou, number, [run.class_name(number), *cells]))
    heads = ["class", "share of pixels", "IoU", "recall", "precision"]
    rows.sort(key=lambda row: row[:2])
    colours = [f"rgb{colour(number)}" if number else "transparent" for _, number, _ in rows]
    return Classes(heads, [cells for *_, cells in rows], None, [], run.class_names, colours)


def _share(part: float, whole: float) -> str:
    return score(part / whole) if whole else "–"


def _mean(total: float, number: float) -> str:
    return f"{total / number:.3f}" if number else "–"


def worst_of(run: Run, found: Evaluation) -> list[Shown]:
    """The worst samples, as they are kept in evaluation/."""
    shown, has_pairs = [], has_objects(found)
    for row in range(len(found.worst.get("index", ()))):
        height, width = found.worst["size"][row].tolist()
        sample: Any = {"image": found.worst["image"][row, :, :height, :width].float() / 255}
        small = max(height, width) < SIDE / 2
        if has_pairs:
            drawings, lines = pair(found, row, sample, run.class_names, side=SIDE)
            uris = [_as_uri(one, lossless=small) for one in drawings]
            shown.append(Shown(uris, small, [*lines, *_lines(run, found, row)]))
            continue
        before = found.worst["mask"][row, :height, :width] if _is_mask(found, "mask") else None
        after = found.worst["predicted_mask"][row, :height, :width] if _is_mask(found, "predicted_mask") else None
        samples = [sample | {"mask": mask} for mask in (before, after) if mask is not None] or [sample]
        side = SIDE if len(samples) > 1 else max(height, width)
        pictures = [_as_uri(drawn(one, side=side), lossless=small) for one in samples]
        shown.append(Shown(pictures, small, _lines(run, found, row)))
    return shown


def _is_mask(found: Evaluation, name: str) -> bool:
    tensor = found.worst.get(name)
    return tensor is not None and tensor.shape[1:] == found.worst["image"].shape[-2:]


def _lines(run: Run, found: Evaluation, row: int) -> list[str]:
    index, lines = int(found.worst["index"][row]), []
    label, predicted = found.worst.get("label"), found.worst.get("predicted_label")
    known = label is not None and label.ndim == 1 and label.dtype == torch.int64
    if known and label is not None and predicted is not None and predicted.ndim == 2 and predicted.numel():
        confidence, number = predicted[row].max(0)
        lines = [f"{run.class_name(int(label[row]))}", f"taken for {run.class_name(int(number))}, {confidence:.1%}"]
    elif "iou" in found.columns:
        at = np.flatnonzero(found.column("index") == index)
        lines = [f"IoU {score(float(found.column('iou')[at[0]]))}"] if len(at) else []
    return [*lines, f"image {index} of {found.split}"]


def _as_uri(picture: Image.Image, *, lossless: bool) -> str:
    data, form = io.BytesIO(), "png" if lossless else "jpeg"
    picture.save(data, form, quality=90)
    return f"data:image/{form};base64,{base64.b64encode(data.getvalue()).decode()}"
