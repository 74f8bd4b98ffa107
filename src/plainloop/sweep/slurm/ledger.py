"""slurm.jsonl in the sweep's folder: which job of the sweep was submitted as which Slurm job, one line each time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from plainloop.system import storage

FILE = "slurm.jsonl"


def write(sweep: Path, ids: Mapping[int, str], *, logs: Path) -> None:
    """Adds what was submitted: Slurm's job (12_3) by the number of the sweep's job. Raises CannotWrite."""
    for number, job in ids.items():
        row = {"number": number, "job": job, "log": str(logs / f"{job}_0_log.err"), "submitted": time.time()}
        storage.append_line(sweep / FILE, row)


def read(sweep: Path) -> dict[int, str]:
    """The latest Slurm job of each job of the sweep; {} where none was submitted."""
    rows = storage.read_lines(sweep / FILE)
    return {int(row["number"]): str(row["job"]) for row in rows if {"number", "job"} <= row.keys()}


def jobs(sweep: Path) -> set[str]:
    """Every Slurm job that was written down, earlier ones too."""
    return {str(row["job"]) for row in storage.read_lines(sweep / FILE) if "job" in row}


def logs(sweep: Path) -> dict[int, Path]:
    """Rank 0's log of each job of the sweep, of its latest submission; other ranks' lie beside it."""
    rows = storage.read_lines(sweep / FILE)
    return {int(row["number"]): Path(row["log"]) for row in rows if {"number", "log"} <= row.keys()}
