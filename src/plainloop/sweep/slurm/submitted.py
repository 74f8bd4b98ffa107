"""slurm.jsonl in the sweep's folder: which Slurm job each job of the sweep was submitted as, one line each time."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path

from plainloop.sweep.slurm import client
from plainloop.system import storage

FILE = "slurm.jsonl"

log = logging.getLogger("plainloop")

_PICKLE = re.compile(r"(\d+(?:_(\d+))?)_submitted\.pkl")


def write(sweep: Path, ids: Mapping[int, str], *, logs: Path) -> None:
    """Adds Slurm jobs (12_3) by the number of the sweep's job. Raises CannotWrite."""
    for number, job in ids.items():
        row = {"number": number, "job": job, "log": str(logs / f"{job}_0_log.err"), "submitted": time.time()}
        storage.append_line(sweep / FILE, row)


def read(sweep: Path) -> dict[int, str]:
    """The latest Slurm job of each job of the sweep; {} where none was submitted."""
    return {int(row["number"]): str(row["job"]) for row in _rows(sweep)}


def logs(sweep: Path) -> dict[int, Path]:
    """Rank 0's log of each job's latest submission; the logs of other ranks lie beside it."""
    return {int(row["number"]): Path(row["log"]) for row in _rows(sweep) if "log" in row}


def record_unrecorded(sweep: Path, folder: Path, *, runs: Mapping[int, Path]) -> None:
    """Adds Slurm jobs whose submission was killed between sbatch and slurm.jsonl.

    A Slurm job without a pickle has nothing to run and is cancelled.

    Args:
        folder: submitit's, with the pickles and the batch scripts.
        runs: the run directories by number.

    Raises SlurmError.
    """
    if not folder.is_dir():
        return
    recorded = {str(row["job"]) for row in _rows(sweep)}
    pickled = {match[1] for path in folder.iterdir() if (match := _PICKLE.fullmatch(path.name))}
    numbers = {run: number for number, run in runs.items()}
    for job in sorted(pickled - recorded, key=lambda job: [int(part) for part in job.split("_")]):
        run = _run_of(folder / f"{job}_submitted.pkl")
        if run in numbers:
            write(sweep, {numbers[run]: job}, logs=folder)
            log.info("job %d: Slurm job %s was submitted but not recorded; now it is", numbers[run], job)
    known = recorded | pickled
    empty = [job for job, script in client.scripts().items() if script.parent == folder and job not in known]
    if empty:
        client.cancel(empty)
        log.info(
            "cancelled Slurm jobs %s: their submission was killed before they had anything to run", " ".join(empty)
        )


def _rows(sweep: Path) -> list[dict[str, str]]:
    return [row for row in storage.read_lines(sweep / FILE) if {"number", "job"} <= row.keys()]


def _run_of(pickle: Path) -> Path | None:
    """The run directory of a pickled job, which we wrote to a folder of ours; None for one of other code."""
    from submitit.core.utils import DelayedSubmission

    try:
        return getattr(DelayedSubmission.load(pickle).function, "folder", None)
    except (ImportError, AttributeError):
        return None
