"""What an evaluation leaves: results.json and samples.csv; and what the run itself had measured at that step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.contracts import Split
from plainloop.loggers.jsonl import read_rows
from plainloop.run.trained.measure import Measured, Paired
from plainloop.run.trained.open import Trained
from plainloop.system import storage
from plainloop.system.tables import to_csv

DIGITS = 7  # of a number in samples.csv; float32 has no more


def write_measured(folder: Path, trained: Trained, found: Measured, about: Mapping[str, Any]) -> None:
    """`about`: what was typed, for people. Raises CannotWrite."""
    intervals = found.intervals
    row = {
        **about,
        "run": str(trained.folder),
        "weights": trained.weights,
        "step": trained.step,
        "num_samples": len(found.rows),
        "metrics": found.metrics,
        "intervals": {name: list(between) for name, between in intervals.items()},
        "class_names": list(trained.class_names),
        "confusion": None if found.confusion is None else found.confusion.tolist(),
        "skipped": found.skipped,
        "seconds": round(found.seconds, 3),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if found.rows:
        rows = ([f"{cell:.{DIGITS}g}" if isinstance(cell, float) else cell for cell in row] for row in found.rows)
        storage.write_whole(folder / "samples.csv", to_csv(found.columns, rows))
    storage.write_json(folder / "results.json", row)


def write_comparison(
    path: Path, names: Sequence[str], found: Sequence[Measured], differences: Sequence[Paired]
) -> None:
    row = {
        "models": list(names),
        "num_samples": len(found[0].rows),
        "metrics": [one.metrics for one in found],
        "differences": [
            {"of": f"{name} - {names[0]}", **{key: [value, *(between or ())] for key, (value, between) in one.items()}}
            for name, one in zip(names[1:], differences, strict=True)
        ],
    }
    storage.write_json(path, row)


def recorded(trained: Trained, split: Split) -> dict[str, float]:
    """What the run wrote into metrics.jsonl for this split at this step, by the metrics' names; {} where it did not."""
    key = f"{'train_eval' if split == 'train' else split}/"
    rows = [row for row in read_rows(trained.folder / "metrics.jsonl") if row["step"] == trained.step]
    return {name.removeprefix(key): value for row in rows for name, value in row.items() if name.startswith(key)}
