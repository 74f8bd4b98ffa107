"""slurm.jsonl in the sweep's folder: which Slurm job each job of the sweep was submitted as, one line each time.

Whoever passes a sweep on can write what he likes there. So it only helps to show the jobs; which Slurm jobs belong to
the sweep is asked of Slurm, which keeps the batch script of each.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from plainloop.sweep.slurm import client
from plainloop.system import storage
from plainloop.system.json_rows import parse_object, wrong_value

FILE = "slurm.jsonl"

log = logging.getLogger("plainloop")

_KINDS = {"number": int, "job": str, "log": str}
_JOB = re.compile(r"\d+(_\d+)?", re.ASCII)
_MARK = "# jobs of a sweep: "
_LONGEST = 1_000_000  # bytes of a batch script


def write(sweep: Path, ids: Mapping[int, str], *, logs: Path) -> None:
    """Adds Slurm jobs (12_3) by the number of the sweep's job. Raises CannotWrite."""
    for number, job in ids.items():
        row = {"number": number, "job": job, "log": str(logs / f"{job}_0_log.err"), "submitted": time.time()}
        storage.append_line(sweep / FILE, row)


def read(sweep: Path) -> dict[int, str]:
    """The latest Slurm job of each job of the sweep; {} where none was submitted."""
    return {row["number"]: row["job"] for row in _rows(sweep)}


def logs(sweep: Path) -> dict[int, Path]:
    """Rank 0's log of each job's latest submission; the logs of other ranks lie beside it."""
    return {row["number"]: Path(row["log"]) for row in _rows(sweep)}


def mark(sweep: Path, numbers: Iterable[int]) -> str:
    """A line of the batch script that says which jobs of which sweep its tasks are, in order."""
    return _MARK + json.dumps({"sweep": str(sweep.resolve()), "numbers": list(numbers)})


def in_queue(sweep: Path) -> dict[int, str]:
    """This user's Slurm jobs that were submitted from the sweep and have not ended, by the number of the sweep's job.

    Records those whose submission was killed before it wrote slurm.jsonl. A Slurm job without a pickle has nothing to
    run and is cancelled. Raises SlurmError.
    """
    found, empty, recorded = dict[int, str](), list[str](), {row["job"] for row in _rows(sweep)}
    scripts = client.scripts()
    for job in sorted(scripts, key=lambda job: [int(part) for part in re.findall(r"\d+", job)]):
        marked, task = _marked(scripts[job]), int(job.partition("_")[2] or 0)
        if marked.get("sweep") != str(sweep.resolve()) or task >= len(marked["numbers"]):
            continue
        if not (scripts[job].parent / f"{job}_submitted.pkl").exists():
            empty.append(job)
            continue
        found[marked["numbers"][task]] = job
        if job not in recorded:
            number = marked["numbers"][task]
            write(sweep, {number: job}, logs=scripts[job].parent)
            log.info("job %d: Slurm job %s was submitted but not recorded; now it is", number, job)
    if empty:
        client.cancel(empty)
        log.info(
            "cancelled Slurm jobs %s: their submission was killed before they had anything to run", " ".join(empty)
        )
    return found


@cache
def _marked(script: Path) -> dict[str, Any]:
    """What `mark` has written into a batch script of this user's; {} for other scripts."""
    try:
        text = storage.read_whole(script.resolve(), most=_LONGEST).decode(errors="replace")
    except OSError:
        return {}
    lines = [line.removeprefix(_MARK) for line in text.splitlines() if line.startswith(_MARK)]
    return (parse_object(lines[0].encode()) if lines else None) or {}


def _rows(sweep: Path) -> list[dict[str, Any]]:
    rows = storage.read_lines(sweep / FILE)
    return [row for row in rows if not wrong_value(row, _KINDS, tuple(_KINDS)) and _JOB.fullmatch(row["job"])]
