"""What has become of each job of a sweep, from its files alone, and why those failed that did. No torch here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.errors import Preempted, RunError
from plainloop.run_dir.status import Status, read_status
from plainloop.sweep import index
from plainloop.system import storage

BAD = ("FAILED", "LOST")
KILLED = 137  # 128 + SIGKILL: what is lost has most often met that


@dataclass(frozen=True)
class Row:
    """One job as it is now. `best` is {metric, value, step} or None; `minutes` are those of all attempts."""

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
        """In one line, for those that are not done; "" where there is nothing to say."""
        status = self.status
        if status.state in ("DONE", "RUNNING"):
            return ""
        said = (status.message or (status.hint if status.state != "LOST" else "")).splitlines()
        text = said[0] if said and status.state in ("FAILED", "CANCELLED") else ""
        return ": ".join(part for part in (status.reason, text) if part)

    @property
    def exit_code(self) -> int:
        """What the job counts for in the sweep's own exit code; what has not failed is to be continued."""
        if self.state == "DONE":
            return 0
        if self.state in BAD:
            return self.status.exit_code or (KILLED if self.state == "LOST" else RunError.code)
        return self.status.exit_code if self.state == "CANCELLED" and self.status.exit_code else Preempted.code


@dataclass(frozen=True)
class Failure:
    """Jobs that failed in the same way; the smallest number first."""

    why: str  # of the first
    rows: tuple[Row, ...]


def rows(sweep: Path) -> list[Row]:
    """All jobs of a sweep by number; [] where there is no sweep."""
    entries = index.read(sweep)
    statuses = {entry.number: read_status(sweep / entry.folder) for entry in entries}
    if (sweep / "slurm.jsonl").exists():
        from plainloop.sweep.slurm import outcome as slurm

        statuses = slurm.statuses(sweep, statuses)
    return [
        row(sweep / entry.folder, entry.number, entry.overrides, hash=entry.hash, status=statuses[entry.number])
        for entry in entries
    ]


def row(folder: Path, number: int, overrides: tuple[str, ...], *, hash: str = "", status: Status | None = None) -> Row:
    status = status or read_status(folder)
    best = (storage.read_json(folder / "summary.json") or {}).get("best") if status.state == "DONE" else None
    if best is None and status.state != "PENDING":
        best = storage.read_json(folder / "checkpoints" / "best.json")
    return Row(number, overrides, folder, hash, status, best, _minutes(folder, status))


def shown_best(found: Row) -> str:
    value = found.best.get("value") if found.best else None
    return f"{found.best['metric']} {value:.4g}" if found.best and value is not None else ""


def failures(found: Sequence[Row]) -> list[Failure]:
    """Numbers in the text do not make a difference: "step 7" and "step 9" are the same failure.

    >>> _alike("loss is nan at step 7 (0x7f3a)") == _alike("loss is nan at step 12 (0x11)")
    True
    """
    groups: dict[str, list[Row]] = {}
    for row in found:
        if row.state in BAD:
            groups.setdefault(_alike(f"{row.state} {row.why}"), []).append(row)
    return [Failure(group[0].why or group[0].state.lower(), tuple(group)) for group in groups.values()]


def worst(found: Sequence[Row]) -> int:
    """The exit code for all of them: of the failed ones the highest, else 75 when something is left to do."""
    codes = [row.exit_code for row in found]
    return max((code for code in codes if code not in (0, Preempted.code)), default=max(codes, default=0))


def varying(found: Sequence[Row]) -> dict[int, str]:
    """Of the overrides of each job those that not all have, joined by spaces.

    >>> make = lambda n, *texts: Row(n, texts, Path(), "", Status("DONE"), None, 0.0)
    >>> varying([make(0, "model=tiny", "seed=0"), make(1, "model=tiny", "seed=1")])
    {0: 'seed=0', 1: 'seed=1'}
    """
    common = set.intersection(*(set(row.overrides) for row in found)) if len(found) > 1 else set()
    return {row.number: " ".join(text.lstrip("+") for text in row.overrides if text not in common) for row in found}


def _minutes(folder: Path, status: Status) -> float:
    """Each attempt from its start to its end; one without an end to the last sign of life, or to now."""
    lines = storage.read_lines(folder / "attempts.jsonl")
    ends = {row["attempt"]: row["ended"] for row in lines if "ended" in row}
    seconds = 0.0
    for row in (row for row in lines if "started" in row):
        last = status.attempt == row["attempt"]
        otherwise = (time.time() if status.state == "RUNNING" else status.heartbeat) if last else row["started"]
        seconds += max(0.0, ends.get(row["attempt"], otherwise) - row["started"])
    return seconds / 60


def _alike(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
