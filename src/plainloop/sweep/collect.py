"""The results of a sweep as rows, for a spreadsheet, a script or a screen. Numbers only from files; no torch here."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.sweep.outcome import Row
from plainloop.system import storage
from plainloop.system.secrets import redact

CSV, JSON = "results.csv", "results.json"
_OF_THE_RUN = ("steps", "seconds", "images_per_s", "parameters")


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One flat row for each job: what it was given, how it ended, its best metric and all last ones.

    Columns are the same in every row; None where a job has nothing to say.
    """
    found = [_result(row) for row in rows]
    columns = list(dict.fromkeys(column for row in found for column in row))
    return [{column: row.get(column) for column in columns} for row in found]


def write(sweep: Path, rows: Sequence[Row]) -> list[Path]:
    """Writes both files into the sweep's folder. Raises CannotWrite."""
    found = results(rows)
    storage.write_whole(sweep / CSV, as_csv(found).encode())
    storage.write_whole(sweep / JSON, as_json(found).encode())
    return [sweep / CSV, sweep / JSON]


def as_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """
    >>> as_csv([{"job": 0, "name": "=1+1", "lr": -0.5}]).splitlines()
    ['job,name,lr', "0,'=1+1,-0.5"]
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = list(found[0]) if found else ["job"]
    writer.writerow([_inert(column) for column in columns])
    writer.writerows([_inert(row[column]) for column in columns] for row in found)
    return text.getvalue()


def as_json(found: Sequence[Mapping[str, Any]]) -> str:
    return "[\n" + ",\n".join(storage.to_json(row) for row in found) + "\n]\n"


def _result(row: Row) -> dict[str, Any]:
    summary = storage.read_json(row.folder / "summary.json") or {} if row.state == "DONE" else {}
    given = {key.lstrip("+~"): value for key, _, value in (redact(text).partition("=") for text in row.overrides)}
    best = row.best or {}
    return {
        "job": row.number,
        **given,
        "state": row.state,
        "step": row.status.step,
        "total": row.status.total,
        "best_metric": best.get("metric"),
        "best": best.get("value"),
        "best_step": best.get("step"),
        **(summary.get("final") or {}),
        "minutes": round(row.minutes, 2),
        **{key: summary.get(key) for key in _OF_THE_RUN},
        "why": redact(row.why),
        "folder": str(row.folder),
        "hash": row.hash,
    }


def _inert(value: Any) -> Any:
    """Spreadsheets run what begins with = + - @ as a formula, unless it is a number; an apostrophe makes it text."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
