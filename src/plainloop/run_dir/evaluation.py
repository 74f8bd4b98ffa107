"""`evaluation/` in a run's folder: the best validation so far, sample by sample; what report and evaluate read.

    results.json        which split and step, the metrics; of masks the pixels of each class; tables and curves
    samples.csv         a row for each sample: its index, and the columns that results.json names
    worst.safetensors   the worst samples, small: images, what is there, what was predicted

Each file is written whole or not at all, and results.json last: without it the others count for nothing. A run that is
killed in between writes the same again.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from plainloop.loop.evaluation.collect import Collected
from plainloop.system import storage
from plainloop.tasks.details import Curves, Details, Table

FOLDER = "evaluation"
WHOLE_NUMBERS = ("index", "label", "prediction")
MOST_CSV, MOST_WORST = 400_000_000, 64_000_000  # bytes; a million samples have 40 MB
KINDS: dict[str, Any] = {"split": str, "step": int, "metrics": dict, "columns": list, "num_samples": int}
KINDS |= {"pixels": dict | None, "details": dict | None}
PIXELS = ("found", "labelled", "predicted")


@dataclass(frozen=True)
class Evaluation:
    split: str
    step: int  # finished optimizer steps of the weights
    metrics: Mapping[str, float | None]  # None is not a number
    columns: tuple[str, ...]  # of `samples`; () where the task tells nothing of a single sample
    samples: NDArray[np.float64]  # (N, columns), by index, which is the first column
    pixels: NDArray[np.float64] | None  # (classes, 3): PIXELS of each class, where there are masks
    worst: Mapping[str, Tensor]  # the worst samples, see loop/evaluation/worst.py; {} for none
    details: Details = field(default_factory=Details)  # its samples are `columns` and `samples`

    def column(self, name: str) -> NDArray[np.float64]:
        return self.samples[:, self.columns.index(name)]


def write_evaluation(
    folder: Path, collected: Collected, *, split: str, step: int, metrics: Mapping[str, float]
) -> None:
    """Replaces what a run's folder says of its best evaluation. Raises CannotWrite."""
    place = folder / FOLDER
    storage.make_folder(place)
    for name in ("results.json", "samples.csv", "worst.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place / name)
    row: dict[str, Any] = {"split": split, "step": step, "num_samples": len(collected.rows), "metrics": dict(metrics)}
    row["columns"] = ["index", *collected.columns] if len(collected.rows) else []
    if row["columns"]:
        storage.write_whole(place / "samples.csv", _csv(row["columns"], collected.rows))
    if collected.worst:
        tensors = {name: tensor.contiguous() for name, tensor in collected.worst.items()}
        storage.write_whole(place / "worst.safetensors", save(tensors))
    if collected.pixels is not None:
        known = collected.pixels[: int(collected.pixels.sum(1).nonzero().max()) + 1].long()
        row["pixels"] = {name: known[:, number].tolist() for number, name in enumerate(PIXELS)}
    if (details := collected.details) != Details():
        row["details"] = {name: value for name, value in asdict(details).items() if name not in ("columns", "samples")}
    storage.write_json(place / "results.json", row)


def read_evaluation(folder: Path) -> Evaluation | None:
    """The best evaluation of a run, which may be somebody else's; None where there is none. Raises BadData."""
    place = folder / FOLDER
    row = storage.read_json(place / "results.json", KINDS, required=("split", "step", "metrics", "columns"))
    if row is None:
        return None
    columns, samples = tuple(map(str, row["columns"])), np.zeros((0, 0))
    if columns[:1] not in ((), ("index",)):
        raise storage.not_a_runs(place / "results.json", f"the first column is {columns[0]}, expected index")
    if columns:
        samples = _read_csv(place / "samples.csv", columns)
    metrics = {str(key): value for key, value in row["metrics"].items() if isinstance(value, int | float | None)}
    pixels, worst = _pixels(place / "results.json", row.get("pixels")), _read_worst(place / "worst.safetensors")
    details = _details(place / "results.json", row.get("details"))
    return Evaluation(row["split"], row["step"], metrics, columns, samples, pixels, worst, details)


def _csv(columns: list[str], rows: Tensor) -> bytes:
    form = ",".join("%d" if name in WHOLE_NUMBERS else "%.7g" for name in columns) + "\n"
    return (",".join(columns) + "\n" + "".join([form % tuple(row) for row in rows.tolist()])).encode()


def _read_csv(path: Path, columns: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        text = storage.read_whole(path, most=MOST_CSV).decode()
        if tuple(text.partition("\n")[0].split(",")) != columns:
            raise ValueError(f"its first line is not {','.join(columns)}")
        samples = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, ndmin=2, comments=None)
        if samples.shape[1] != len(columns):
            raise ValueError(f"it has {samples.shape[1]} columns, expected {len(columns)}")
    except (ValueError, OSError) as error:
        raise storage.not_a_runs(path, str(error)) from error
    return samples


def _pixels(path: Path, found: Mapping[str, Any] | None) -> NDArray[np.float64] | None:
    if found is None:
        return None
    try:
        return np.array([found[name] for name in PIXELS], dtype=np.float64).reshape(len(PIXELS), -1).T
    except (KeyError, ValueError, TypeError) as error:
        raise storage.not_a_runs(path, f"pixels: {error}") from error


def _details(path: Path, found: Mapping[str, Any] | None) -> Details:
    if found is None:
        return Details()
    try:
        tables = [
            Table(str(one["title"]), [*map(str, one["heads"])], [[*map(_cell, row)] for row in one["rows"]])
            for one in found["tables"]
        ]
        curves = [
            Curves(str(one["title"]), str(one["x"]), str(one["y"]), _lines(one["lines"])) for one in found["curves"]
        ]
        score = found["least_score"]
        return Details((), (), tables, curves, str(found["about"]), None if score is None else float(score))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise storage.not_a_runs(path, f"details: {error}") from error


def _lines(found: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    return {str(name): [(float(x), float(y)) for x, y in line] for name, line in found.items()}


def _cell(value: Any) -> str | float | None:
    return value if value is None or isinstance(value, int | float) else str(value)


def _read_worst(path: Path) -> dict[str, Tensor]:
    """Raises BadData where the tensors do not belong together."""
    if not path.exists():
        return {}
    try:
        worst = load(storage.read_whole(path, most=MOST_WORST))
    except (SafetensorError, OSError) as error:
        raise storage.not_a_runs(path, str(error)) from error
    number = len(worst["index"]) if worst.get("index", torch.zeros(())).ndim == 1 else -1
    image, size = worst.get("image", torch.zeros(0)), worst.get("size", torch.zeros(0))
    fits = image.ndim == 4 and image.dtype == torch.uint8 and image.shape[1] in (1, 3, 4) and size.shape == (number, 2)
    fits = fits and all(tensor.ndim and len(tensor) == number for tensor in worst.values())
    fits = fits and worst["index"].dtype == size.dtype == torch.int64
    if not fits or (size < 1).any() or (size > torch.tensor(image.shape[-2:])).any():
        raise storage.not_a_runs(path, "its tensors are not the images of a run")
    return worst
