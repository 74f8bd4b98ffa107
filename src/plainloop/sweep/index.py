"""jobs.jsonl: which configs a sweep consists of, and the folder of each, written before any of them starts.

A job is known again by its config, so that values added to a sweep get the next numbers and leave the others where
they are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from plainloop.config import compare
from plainloop.config.settings import later_keys
from plainloop.sweep.paths import folder_problem
from plainloop.system import storage

FILE = "jobs.jsonl"

# Said anew at each start; the facts of the data are compared when the run is taken up.
_NOT_OF_THE_JOB = ("resume", "check", "facts")


@dataclass(frozen=True)
class Entry:
    """One line. `folder` is relative to the sweep's, so that a sweep can be moved."""

    number: int
    overrides: tuple[str, ...]
    folder: str
    hash: str


class Checked(Protocol):
    @property
    def overrides(self) -> tuple[str, ...]: ...
    @property
    def hash(self) -> str: ...


def config_hash(config: Mapping[str, Any]) -> str:
    """What a job is known by: everything that can change its result, and nothing else.

    >>> config_hash({"seed": 1, "trainer": {"devices": 2}}) == config_hash({"seed": 1, "trainer": {"devices": 1}})
    True
    >>> config_hash({"seed": 1}) == config_hash({"seed": 2})
    False
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_OF_THE_JOB}
    rows = compare.differences({}, kept)
    later = later_keys()  # at their defaults they change nothing: a sweep begun before they existed keeps its hashes
    told = [
        [row.key, row.now]
        for row in rows
        if (compare.changes_result(row.key, kept) or row.key == "data.download")  # which earlier hashes counted
        and not (row.key in later and row.now == later[row.key])
    ]
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16]


def read(sweep: Path) -> list[Entry]:
    """The jobs of a sweep by number; [] where there is no sweep. A line that was torn is none, nor is one that leads
    out of the sweep."""
    found: dict[int, Entry] = {}
    for entry in _entries(sweep):
        found.setdefault(entry.number, entry)
    return [found[number] for number in sorted(found)]


def torn(sweep: Path) -> int:
    """Lines of a sweep that are no job's."""
    lines = [line for line in (sweep / FILE).read_bytes().splitlines() if line.strip()]
    return len(lines) - len(_entries(sweep))


def _entries(sweep: Path) -> list[Entry]:
    return [
        Entry(int(row["number"]), tuple(row["overrides"]), str(row["folder"]), str(row["hash"]))
        for row in storage.read_lines(sweep / FILE)
        if {"number", "overrides", "folder", "hash"} <= row.keys() and not folder_problem(str(row["folder"]))
    ]


def write(sweep: Path, entries: Iterable[Entry]) -> None:
    """Adds jobs, durably. Raises CannotWrite."""
    for entry in entries:
        storage.append_line(sweep / FILE, {**vars(entry), "overrides": list(entry.overrides), "time": time.time()})


def recognize(known: Sequence[Entry], jobs: Sequence[Checked]) -> list[Entry | None]:
    """For each job the entry that it is, None for a new one.

    Two jobs of one sweep may differ in nothing that changes the result (data.num_workers=0,2), so what was typed is
    looked at first.
    """
    found: list[Entry | None] = [None] * len(jobs)
    free: dict[str, list[Entry]] = {}
    for entry in known:
        free.setdefault(entry.hash, []).append(entry)
    for same_text in (True, False):
        for place, job in enumerate(jobs):
            waiting = free.get(job.hash, [])
            match = next((e for e in waiting if not same_text or e.overrides == job.overrides), None)
            if found[place] is None and match is not None:
                found[place] = match
                waiting.remove(match)
    return found


def next_number(known: Sequence[Entry]) -> int:
    return max((entry.number for entry in known), default=-1) + 1
