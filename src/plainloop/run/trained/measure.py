"""Measures a trained model: the task's metrics, what they are for each sample, and how far they may be off."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from plainloop.contracts import (
    IGNORE,
    Batch,
    Data,
    GivesDetails,
    GivesResults,
    Resamples,
    Split,
    SumsMetrics,
)
from plainloop.errors import BadConfig, OutOfMemory
from plainloop.loop.evaluation.collect import Collector
from plainloop.loop.normalize import to_device
from plainloop.loop.stopwatch import closing_workers
from plainloop.run.backend import OUT_OF_MEMORY
from plainloop.run.trained.open import Trained
from plainloop.run.trained.resample import FEW_SETS, MOST_SUMS, Resampled, counts, difference, intervals
from plainloop.run_dir.weights import first_line
from plainloop.system import rng
from plainloop.tasks.details import Details

MOST_CLASSES = 1000  # of a confusion matrix
_REFUSALS = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)  # of a model that gets other images

Tell = Callable[..., None]  # how many samples are done
Paired = dict[str, tuple[float, tuple[float, float] | None]]  # a difference of each metric, and its interval


@dataclass
class Measured:
    """One model on one set of samples."""

    metrics: dict[str, float] = field(default_factory=dict)  # as the run computes them, over all samples
    resampled: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # each metric in each resampled set
    columns: tuple[str, ...] = ()  # of `rows`
    rows: list[list[Any]] = field(default_factory=list)  # one for each sample, in the order of the data
    confusion: NDArray[np.int64] | None = None  # (classes, classes): samples or pixels of class i taken for class j
    counted: str = "samples"  # by `confusion`; or pixels
    samples: dict[tuple[str, int], tuple[str, int]] = field(
        default_factory=dict
    )  # (split, index) -> file, label's hash
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)  # why, of each sample that could not be read

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of each metric, 95 %; {} where it neither follows from sums over samples nor can be measured again."""
        return intervals(self.resampled)


def measure(
    trained: Trained,
    data: Data,
    splits: Sequence[Split],
    *,
    tell: Tell = lambda _: None,
    collector: Collector | None = None,
) -> Measured:
    """Every sample of the splits once, batch by batch as the run evaluates: with its batches, draws and precision.

    `collector` keeps what a run's folder holds of its best evaluation.
    """
    task, began = trained.task, time.perf_counter()
    metrics = collector.metrics if collector else task.metrics()
    by_sums = cast(SumsMetrics, metrics) if hasattr(metrics, "sums") else None
    found, resampled = Measured(), Resampled()
    with rng.drawing_from(rng.fold(rng.EVAL, trained.config["seed"]), trained.device), trained.predicting():
        for number, split in enumerate(splits):
            with closing_workers(data.eval_batches(split)) as batches:
                for raw in batches:
                    batch = trained.prepare(raw)
                    prediction = predicted(trained, batch, is_first=not found.rows)
                    # Two splits may have the same numbers.
                    numbers = raw["index"] * len(splits) + number
                    metrics.update(prediction, batch | {"index": numbers.to(batch["index"].device)})
                    if collector:
                        collector.add(prediction, batch, to_device(raw, trained.device)["image"])
                    results = cast(GivesResults, task).results(prediction, batch) if hasattr(task, "results") else {}
                    keep_confusion(found, results, batch)
                    keep_samples(found, split, data, raw)
                    own: list[dict[str, float]] = [{} for _ in range(len(raw["index"]))]
                    if by_sums:
                        sums = by_sums.sums(prediction, batch).cpu().double()
                        own = [by_sums.values(row) for row in sums]
                        if sums.shape[1] <= MOST_SUMS:
                            resampled.add(sums, numbers.numpy(force=True))
                    keep_rows(found, split, raw, results, own, trained.class_names)
                    tell(len(found.rows))
    found.metrics = metrics.compute()
    found.seconds = time.perf_counter() - began
    found.resampled = resampled.values(by_sums.values) if by_sums else {}
    if hasattr(metrics, "resampled"):
        found.resampled = cast(Resamples, metrics).resampled(functools.partial(counts, num_sets=FEW_SETS))
    if hasattr(metrics, "details"):
        add_columns(found, cast(GivesDetails, metrics).details(), splits)
    found.skipped = [row["why"] for row in data.take_skipped()] if hasattr(data, "take_skipped") else []
    return found


def predicted(trained: Trained, batch: Batch, *, is_first: bool) -> Any:
    """The task's prediction. Raises BadConfig where the model does not take such images, OutOfMemory."""
    try:
        return trained.task.predict(trained.model, batch)
    except _REFUSALS as error:
        told = first_line(error)
        number, *shape = batch["image"].shape
        if isinstance(error, torch.OutOfMemoryError) or any(words in told for words in OUT_OF_MEMORY):
            raise OutOfMemory(f"out of memory: {told}", hint=f"type data.batch_size={max(1, number // 2)}") from error
        if not is_first:
            raise
        raise BadConfig(
            f"the model does not take images of {'x'.join(map(str, shape))}: {told}",
            hint="take the size that it was trained with: leave out data.image_size, or tta=multi_scale",
        ) from error


def keep_confusion(found: Measured, results: Batch, batch: Batch) -> None:
    """Counts samples by class and predicted class; pixels where there are masks."""
    for name in ("label", "mask"):
        if name not in results or name not in batch or batch[name].is_floating_point():
            continue
        said, true = results[name], batch[name]
        if name == "label":
            num_classes, said = said.shape[1], said.argmax(1)
        else:
            num_classes = int(max(said.max(), true[true != IGNORE].max() if (true != IGNORE).any() else 0)) + 1
            num_classes = max(num_classes, 0 if found.confusion is None else len(found.confusion))
        if num_classes > MOST_CLASSES:
            return
        known = true != IGNORE if name == "mask" else torch.ones_like(true, dtype=torch.bool)
        places = (true[known] * num_classes + said[known]).cpu()
        added = torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes).numpy()
        if found.confusion is not None:
            added[: len(found.confusion), : len(found.confusion)] += found.confusion
        found.confusion, found.counted = added, "samples" if name == "label" else "pixels"


def keep_samples(found: Measured, split: Split, data: Data, raw: Batch) -> None:
    """What tells one sample from another: its file where the data name it, and what is to be predicted."""
    entries = [raw[name].cpu().numpy() for name in sorted(raw) if name not in ("image", "index")]
    for row, index in enumerate(raw["index"].tolist()):
        digest = 0
        for entry in entries:
            digest = zlib.crc32(np.ascontiguousarray(entry[row]).tobytes(), digest)
        name = data.name_of(split, index) if hasattr(data, "name_of") else ""
        found.samples[split, index] = name, digest


def keep_rows(
    found: Measured,
    split: Split,
    raw: Batch,
    results: Batch,
    own: Sequence[Mapping[str, float]],
    names: Sequence[str],
) -> None:
    """A row for each sample: which one it is, what was predicted, and the metrics of it alone, but those of classes."""
    probabilities = results["label"].cpu() if "label" in results and results["label"].ndim == 2 else None
    labels = raw["label"].tolist() if "label" in raw and raw["label"].ndim == 1 else None
    for row, index in enumerate(raw["index"].tolist()):
        cells: dict[str, Any] = {"split": split, "index": index}
        if file := found.samples[split, index][0]:
            cells["file"] = file
        if labels is not None:
            cells["label"] = _name(names, labels[row])
        if probabilities is not None:
            probability, best = probabilities[row].max(0)
            cells |= {"predicted": _name(names, int(best)), "probability": float(probability)}
        cells |= {name: value for name, value in own[row].items() if "/" not in name}
        found.columns = tuple(cells)
        found.rows.append(list(cells.values()))


def add_columns(found: Measured, details: Details, splits: Sequence[Split]) -> None:
    """What the metrics tell of single samples, at the end of their rows."""
    values = {int(index): row for index, *row in details.samples}
    if not values:
        return
    found.columns += tuple(details.columns)
    for row, (split, index) in zip(found.rows, found.samples, strict=True):
        told = values[index * len(splits) + splits.index(split)]
        row += [int(value) if float(value).is_integer() else value for value in told]


def require_same_samples(first: Measured, second: Measured, names: tuple[str, str]) -> None:
    """Raises BadConfig, saying how the samples differ: only on the same ones a difference is one of the models."""
    if first.samples == second.samples:
        return
    one, other = first.samples, second.samples
    if one.keys() != other.keys():
        lacks = sorted(one.keys() ^ other.keys())[0]
        who = names[0] if lacks in one else names[1]
        how = f"{names[0]} has {len(one)} and {names[1]} has {len(other)}; {lacks[0]} {lacks[1]} is in {who} alone"
    else:
        split, index = next(place for place in sorted(one) if one[place] != other[place])
        (file, _), (other_file, _) = one[split, index], other[split, index]
        what = f"{file} in {names[0]} and {other_file} in {names[1]}" if file != other_file else "of other classes"
        how = f"{split} {index} is {what}"
    raise BadConfig(
        f"these runs were not measured on the same samples: {how}",
        hint="evaluate both on the same data: add data=... data.root=..., and split=test if each has held out its own",
    )


def paired(first: Measured, second: Measured) -> Paired:
    """second - first of each metric that both have, with its interval on these samples; None without sums."""
    names = [name for name in first.metrics if name in second.metrics]
    known = difference(first.resampled, second.resampled, names)
    return {name: (second.metrics[name] - first.metrics[name], known.get(name)) for name in names}


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
