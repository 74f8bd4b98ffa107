"""What an evaluation keeps beside its metrics: numbers of every sample, and the worst samples as small pictures.

It is collected during the pass, where the predictions are: no second pass, and no wait for the device between batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from plainloop.contracts import (
    IGNORE,
    Batch,
    DrawsPictures,
    GivesDetails,
    GivesResults,
    Metrics,
    SumsMetrics,
    Task,
)
from plainloop.distributed import collectives
from plainloop.loop.evaluation.worst import Worst
from plainloop.tasks.boxes.matches import mistakes
from plainloop.tasks.details import Details
from plainloop.tasks.totals import widest_float

VALUES = 257  # of a mask's pixels: 256, and one for what is not counted
MOST_BYTES = 32_000_000  # of sums kept for the metrics of single samples; a task with more gets none

LABEL_COLUMNS = ("label", "prediction", "confidence", "loss")
MASK_COLUMNS = ("iou", "pixel_accuracy")
# Entries that pictures of the worst samples show.
SHOWN = ("label", "mask", "boxes", "box_label", "box_score", "box_valid", "box_crowd", "box_difficult", "instance_mask")


@dataclass(frozen=True)
class Collected:
    """Of all ranks, on the host, in the order of the samples' index."""

    columns: tuple[str, ...] = ()
    rows: Tensor = field(
        default_factory=lambda: torch.zeros(0, 1, dtype=torch.float64)
    )  # (N, 1 + columns): index first
    pixels: Tensor | None = None  # (256, 3): of each class those found, those in the masks, those predicted
    worst: Mapping[str, Tensor] = field(default_factory=dict)  # of at most `worst.MOST` samples, the worst first
    details: Details = field(default_factory=Details)  # its samples are `columns` and `rows`


class Collector:
    """One evaluation's, of which `metrics` are the totals: the caller updates and computes them.

    What it keeps follows from the entries of the task's results; a task without results has the metrics of single
    samples, where they follow from sums; metrics may add their own details; a task with none of these has nothing.
    """

    def __init__(self, task: Task) -> None:
        self._results = cast(GivesResults, task).results if hasattr(task, "results") else None
        self._pictures = cast(DrawsPictures, task).pictures if hasattr(task, "pictures") else None
        self.metrics: Metrics = task.metrics()
        self._sums = cast(SumsMetrics, self.metrics) if hasattr(self.metrics, "sums") else None
        self._worst = Worst()
        self._columns: tuple[str, ...] = ()
        self._rows: list[Tensor] = []  # of each batch (B, 1 + columns)
        self._bytes = 0
        self._pixels: Tensor | None = None

    def add(self, prediction: Any, batch: Batch, image: Tensor) -> None:
        """Takes a batch with its prediction; `image` as the data gave it, before normalization. Never waits."""
        results = self._results(prediction, batch) if self._results else {}
        score: Tensor | None = None
        values: list[Tensor] = []
        if _are_probabilities(results.get("label")) and _are_numbers(batch.get("label")):
            self._columns, values = LABEL_COLUMNS, _of_labels(results["label"], batch["label"])
            wrong = values[1] != values[0]
            score = torch.where(wrong, values[2], -1.0)
        elif "mask" in results and "mask" in batch and results["mask"].shape == batch["mask"].shape:
            self._columns = MASK_COLUMNS
            values, pixels = _of_masks(results["mask"], batch["mask"])
            self._pixels = pixels if self._pixels is None else self._pixels + pixels
            score = (1 - values[0]).nan_to_num(nan=-1.0)
        elif self._sums:
            values = list(self._sums.sums(prediction, batch).unbind(1))
        elif has_detections(results) and "boxes" in batch:
            score = mistakes(results, batch)
        if values and self._bytes < MOST_BYTES:
            kind = widest_float(values[0].device)  # holds the index, too
            self._rows.append(torch.stack([value.to(kind) for value in (batch["index"], *values)], dim=1))
            self._bytes += self._rows[-1].nbytes
        if self._pictures:
            score, picture = self._pictures(prediction, batch | {"image": image})
            self._worst.add(score, {"index": batch["index"], "image": picture})
        elif score is not None:
            shown = {name: batch[name] for name in ("index", *SHOWN) if name in batch}
            predicted = {f"predicted_{name}": results[name] for name in SHOWN if name in results}
            self._worst.add(score, shown | predicted | {"image": image})

    def collected(self) -> Collected:
        """Once the metrics are computed. Waits for the device. Collective; whole on every rank."""
        worst = self._worst.gathered()
        rows = torch.cat(self._rows).cpu().double() if self._rows else torch.zeros(0, 1, dtype=torch.float64)
        told = collectives.gather([self._columns, self._bytes < MOST_BYTES])
        columns = next((tuple(names) for names, _ in told if names), ())  # a rank without a sample has none
        rows = collectives.gather_rows(rows) if all(whole for _, whole in told) else rows[:0]
        rows = rows[rows[:, 0].argsort()]
        if not columns and self._sums and len(rows):
            values = [self._sums.values(row[1:]) for row in rows]
            columns = tuple(values[0])
            numbers = torch.tensor([[value[name] for name in columns] for value in values], dtype=torch.float64)
            rows = torch.cat([rows[:, :1], numbers], dim=1)
        pixels = self._all_pixels(columns)
        details = cast(GivesDetails, self.metrics).details() if hasattr(self.metrics, "details") else Details()
        if not columns and details.samples:
            columns, rows = tuple(details.columns), torch.tensor(details.samples, dtype=torch.float64)
        return Collected(columns, rows, pixels, worst, replace(details, columns=(), samples=()))

    def _all_pixels(self, columns: tuple[str, ...]) -> Tensor | None:
        """Collective where there are masks."""
        if columns != MASK_COLUMNS:
            return None
        mine = torch.zeros(VALUES - 1, 3, dtype=torch.float64) if self._pixels is None else self._pixels.cpu().double()
        return collectives.sum_(mine)


def _are_probabilities(label: Tensor | None) -> bool:
    return label is not None and label.ndim == 2 and label.is_floating_point()


def has_detections(results: Batch) -> bool:
    return {"boxes", "box_label", "box_score", "box_valid"} <= results.keys()


def _are_numbers(label: Tensor | None) -> bool:
    return label is not None and label.ndim == 1 and label.dtype == torch.int64


def _of_labels(probabilities: Tensor, label: Tensor) -> list[Tensor]:
    """LABEL_COLUMNS of each sample; the loss is the cross entropy of its class."""
    confidence, prediction = probabilities.float().max(1)
    own = probabilities.float().gather(1, label[:, None].clamp(0, probabilities.shape[1] - 1))[:, 0]
    return [label, prediction, confidence, -own.clamp_min(torch.finfo(torch.float32).tiny).log()]


def _of_masks(predicted: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
    """MASK_COLUMNS of each sample, and pixels (256, 3) of each class: found, in the masks, predicted.

    An image's IoU is the mean over the classes that occur in its mask or prediction; NaN where no pixel has a class.
    """
    number, counted = len(mask), (mask >= 0) & (mask < IGNORE)
    none = VALUES - 1
    places = torch.stack(
        [
            torch.where(counted & (predicted == mask), mask, none),
            torch.where(counted, mask, none),
            torch.where(counted & (predicted >= 0) & (predicted < none), predicted, none),
        ],
        dim=1,
    ).flatten(2)
    offsets = torch.arange(number * 3, device=mask.device).view(number, 3, 1) * VALUES
    counts = mask.new_zeros(number * 3 * VALUES)
    flat = (places + offsets).flatten()
    counts.index_add_(0, flat, torch.ones_like(flat))
    counts = counts.view(number, 3, VALUES)[..., :none]
    found, there, predicted_so = counts.to(widest_float(mask.device)).unbind(1)
    either = there + predicted_so - found
    ious = torch.where(either > 0, found / either.clamp_min(1), 0.0)
    iou = ious.sum(1) / (either > 0).sum(1)  # 0 / 0 is NaN
    return [iou, found.sum(1) / there.sum(1)], counts.sum(0).T
