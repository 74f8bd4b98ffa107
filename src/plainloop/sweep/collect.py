"""The results of a sweep as rows, CSV or JSON, read from the jobs' files. No torch here."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.errors import printable
from plainloop.run_dir.status import read_summary
from plainloop.sweep.outcome import Row
from plainloop.system import storage
from plainloop.system.secrets import redact

CSV, JSON = "results.csv", "results.json"
_FROM_SUMMARY = ("steps", "seconds", "images_per_s", "parameters")


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One flat row for each job: overrides, state, best metric and all final metrics.

    All rows have the same columns; None where a job has no value.
    """
    flat = [_result(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    return [{column: row.get(column) for column in columns} for row in flat]


def write(sweep: Path, rows: Sequence[Row]) -> list[Path]:
    """Writes both files to the sweep's folder. Raises CannotWrite."""
    flat = results(rows)
    storage.write_whole(sweep / CSV, as_csv(flat).encode())
    storage.write_whole(sweep / JSON, as_json(flat).encode())
    return [sweep / CSV, sweep / JSON]


def as_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """
    >>> as_csv([{"job": 0, "name": "=1+1", "lr": -0.5}]).splitlines()
    ['job,name,lr', "0,'=1+1,-0.5"]
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = list(results[0]) if results else ["job"]
    writer.writerow([_as_text(column) for column in columns])
    writer.writerows([_as_text(row[column]) for column in columns] for row in results)
    return text.getvalue()


def as_json(results: Sequence[Mapping[str, Any]]) -> str:
    return "[\n" + ",\n".join(storage.to_json(row) for row in results) + "\n]\n"


def _result(row: Row) -> dict[str, Any]:
    summary = read_summary(row.folder) or {} if row.state == "DONE" else {}
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
        **{key: _number(value) for key, value in summary.get("final", {}).items()},
        "minutes": round(row.minutes, 2),
        **{key: _number(summary.get(key)) for key in _FROM_SUMMARY},
        "why": redact(row.why),
        "folder": str(row.folder),
        "hash": row.hash,
    }


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) else None


def _as_text(value: Any) -> Any:
    """Escapes control characters, and adds an apostrophe to text that a spreadsheet would run as a formula."""
    value = printable(value) if isinstance(value, str) else value
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
