"""The state of each job of a sweep, from its files alone, and the reasons of failures. No torch here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.errors import Preempted, RunError
from plainloop.run_dir.status import BEST_KINDS, Status, read_attempts, read_status, read_summary
from plainloop.sweep import index
from plainloop.sweep.slurm import outcome as slurm
from plainloop.system import storage
from plainloop.system.folders import require_plain_folder

BAD = ("FAILED", "LOST")
UNREADABLE = "unreadable"  # the reason of a job whose files are not what a run writes
KILLED = 137  # 128 + SIGKILL, the most frequent cause of LOST


@dataclass(frozen=True)
class Row:
    """One job now. `best` is {metric, value, step} or None; `minutes` is the time of all attempts."""

    number: int
    overrides: tuple[str, ...]
    folder: Path
    hash: str
    status: Status
    best: Mapping[str, Any] | None
    minutes: float

    @property
    def state(self) -> str:
        return self.status.state

    @property
    def why(self) -> str:
        """The reason in one line, for jobs that are neither done nor running."""
        status = self.status
        if status.state in ("DONE", "RUNNING"):
            return ""
        lines = (status.message or status.hint).splitlines()
        text = lines[0] if lines and status.state in ("FAILED", "CANCELLED") else ""
        return ": ".join(part for part in (status.reason, text) if part)

    @property
    def exit_code(self) -> int:
        """The job's part in the sweep's exit code: 0 when done, 75 when it can be continued, else its own."""
        if self.state == "DONE":
            return 0
        if self.state in BAD:
            return self.status.exit_code or (KILLED if self.state == "LOST" else RunError.code)
        return self.status.exit_code if self.state == "CANCELLED" and self.status.exit_code else Preempted.code


@dataclass(frozen=True)
class Failure:
    """Jobs that failed in the same way, by number."""

    why: str  # of the first
    rows: tuple[Row, ...]


def rows(sweep: Path) -> list[Row]:
    """All jobs of a sweep by number; [] where there is no sweep. A row says what is wrong with its job's files."""
    entries = index.read(sweep)
    written = {entry.number: _status(sweep / entry.folder, sweep) for entry in entries}
    readable = {number: status for number, status in written.items() if status.reason != UNREADABLE}
    statuses = written | slurm.statuses(sweep, readable)
    return [
        row(sweep / entry.folder, entry.number, entry.overrides, hash=entry.hash, status=statuses[entry.number])
        for entry in entries
    ]


def row(folder: Path, number: int, overrides: tuple[str, ...], *, hash: str = "", status: Status | None = None) -> Row:
    status = status or _status(folder, folder.parent)
    best, minutes = None, 0.0
    if status.reason != UNREADABLE:
        try:
            best = (read_summary(folder) or {}).get("best") if status.state == "DONE" else None
            if best is None and status.state != "PENDING":
                best = storage.read_json(folder / "checkpoints" / "best.json", BEST_KINDS, required=tuple(BEST_KINDS))
            minutes = _minutes(folder, status)
        except RunError as error:
            status = Status("FAILED", UNREADABLE, str(error))
    return Row(number, overrides, folder, hash, status, best, minutes)


def _status(folder: Path, root: Path) -> Status:
    """What the files of a job say. Nothing is read outside of the sweep."""
    try:
        if not index.stays_inside(folder, root):
            return Status("FAILED", UNREADABLE, f"its folder leads out of the sweep, to {folder.resolve()}")
        require_plain_folder(folder)
        return read_status(folder)
    except (RunError, OSError) as error:
        return Status("FAILED", UNREADABLE, str(error))


def shown_best(row: Row) -> str:
    value = row.best.get("value") if row.best else None
    return f"{row.best['metric']} {value:.4g}" if row.best and value is not None else ""


def failures(rows: Sequence[Row]) -> list[Failure]:
    """Groups failures whose texts are equal apart from their numbers: "step 7" and "step 9" are the same failure.

    >>> _without_numbers("loss is nan at step 7 (0x7f3a)") == _without_numbers("loss is nan at step 12 (0x11)")
    True
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.state in BAD:
            groups.setdefault(_without_numbers(f"{row.state} {row.why}"), []).append(row)
    return [Failure(group[0].why or group[0].state.lower(), tuple(group)) for group in groups.values()]


def worst(rows: Sequence[Row]) -> int:
    """The exit code of all: the highest of the failed jobs, else 75 when a job is not finished."""
    codes = [row.exit_code for row in rows]
    return max((code for code in codes if code not in (0, Preempted.code)), default=max(codes, default=0))


def varying(rows: Sequence[Row]) -> dict[int, str]:
    """The overrides of each job that not all jobs have, joined by spaces.

    >>> make = lambda n, *texts: Row(n, texts, Path(), "", Status("DONE"), None, 0.0)
    >>> varying([make(0, "model=tiny", "seed=0"), make(1, "model=tiny", "seed=1")])
    {0: 'seed=0', 1: 'seed=1'}
    """
    texts = without_common([row.overrides for row in rows])
    return {row.number: text for row, text in zip(rows, texts, strict=True)}


def without_common(overrides: Sequence[Sequence[str]]) -> list[str]:
    """What tells jobs apart: the overrides of each that not all have, joined by spaces; all of a single one."""
    common = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(text.lstrip("+") for text in one if text not in common) for one in overrides]


def _minutes(folder: Path, status: Status) -> float:
    """The time of all attempts. One that has no end counts to its last heartbeat, or to now while it runs."""
    lines = read_attempts(folder)
    ends = {row["attempt"]: row["ended"] for row in lines if "ended" in row}
    seconds = 0.0
    for row in (row for row in lines if "started" in row):
        last = status.attempt == row["attempt"]
        otherwise = (time.time() if status.state == "RUNNING" else status.heartbeat) if last else row["started"]
        seconds += max(0.0, ends.get(row["attempt"], otherwise) - row["started"])
    return seconds / 60


def _without_numbers(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
