"""jobs.jsonl: the configs of a sweep and the folder of each, written before any job starts; checks folder names.

A job is recognized by its config: values added to a sweep get the next numbers, and known jobs keep theirs.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.config import compare
from plainloop.config.settings import later_keys
from plainloop.system import storage
from plainloop.system.json_rows import wrong_value

FILE = "jobs.jsonl"

# Given anew at each start; the facts of the data are compared when the run is resumed.
_NOT_OF_THE_JOB = ("resume", "check", "facts")
# In the hashes of older sweeps, which must not change.
_COUNTED_EARLIER = ("data.device", "data.download", "device", "trainer.accumulate")

_KINDS = {"number": int, "overrides": list, "folder": str, "hash": str}
_SAFE_NAME = re.compile(r"[\w.=,+@%:()\[\]{} -]+")  # letters of any script; no control characters, no shell quoting
_LONGEST = 200  # bytes; file systems end at 255, and temporary names need some of them
_FILES_OF_THE_SWEEP = (
    FILE,
    "slurm.jsonl",
    "multirun.yaml",
    "run.lock",
    "run.lease",
    "results.csv",
    "results.json",
    "sweep.html",
)


@dataclass(frozen=True)
class Entry:
    """One line. `folder` is relative to the sweep's, so that a sweep can be moved."""

    number: int
    overrides: tuple[str, ...]
    folder: str
    hash: str


def config_hash(config: Mapping[str, Any]) -> str:
    """Identifies a job: a hash of everything that can change its result, and of nothing else.

    >>> config_hash({"seed": 1, "trainer": {"devices": 2}}) == config_hash({"seed": 1, "trainer": {"devices": 1}})
    True
    >>> config_hash({"seed": 1}) == config_hash({"seed": 2})
    False
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_OF_THE_JOB}
    later = later_keys()  # left out while they have their defaults, so that older sweeps keep their hashes
    rows = [
        [row.key, row.now]
        for row in compare.differences({}, kept)
        if (compare.changes_result(row.key, kept) or row.key in _COUNTED_EARLIER)
        and not (row.key in later and row.now == later[row.key])
    ]
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:16]


def read(sweep: Path) -> list[Entry]:
    """The jobs of a sweep by number; [] where there is no sweep. Skips broken lines and folders outside the sweep."""
    entries: dict[int, Entry] = {}
    for entry in _entries(sweep):
        entries.setdefault(entry.number, entry)
    return [entries[number] for number in sorted(entries)]


def num_broken_lines(sweep: Path) -> int:
    lines = [line for line in storage.read_whole(sweep / FILE).splitlines() if line.strip()]
    return len(lines) - len(_entries(sweep))


def _entries(sweep: Path) -> list[Entry]:
    return [
        Entry(row["number"], tuple(row["overrides"]), row["folder"], row["hash"])
        for row in storage.read_lines(sweep / FILE)
        if not wrong_value(row, _KINDS, tuple(_KINDS)) and not folder_problem(row["folder"])
        if all(isinstance(text, str) for text in row["overrides"])
    ]


def write(sweep: Path, entries: Iterable[Entry]) -> None:
    """Adds jobs, durably. Raises CannotWrite."""
    for entry in entries:
        storage.append_line(sweep / FILE, {**vars(entry), "overrides": list(entry.overrides), "time": time.time()})


def folder_problem(name: str, root: Path | None = None) -> str:
    """What is wrong with a path relative to the sweep's folder; "" when nothing is. With `root` links are followed.

    >>> folder_problem("seed=1,optimizer.lr=0.1/a"), folder_problem("../x"), folder_problem("")
    ('', "leads out of the sweep's folder", 'is empty')
    """
    if not name:
        return "is empty"
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return "leads out of the sweep's folder"
    if parts[0] in _FILES_OF_THE_SWEEP:
        return f"is the name of the sweep's own {parts[0]}"
    problem = next((problem for part in parts if (problem := _part_problem(part))), "")
    return problem or ("" if root is None or stays_inside(root / name, root) else "leads out of the sweep's folder")


def stays_inside(folder: Path, root: Path) -> bool:
    """Whether a folder lies below `root` also when links are followed."""
    resolved, top = folder.absolute().resolve(), root.absolute().resolve()
    return resolved != top and resolved.is_relative_to(top)


def _part_problem(part: str) -> str:
    if part == "" or set(part) == {"."}:
        return f"has a part {part!r}"
    if not _SAFE_NAME.fullmatch(part):
        return f"holds {next(char for char in part if not _SAFE_NAME.fullmatch(char))!r}"
    if part[0] in "-. " or part[-1] in ". ":
        return f"begins or ends with {part[0] if part[0] in '-. ' else part[-1]!r}"
    if len(part.encode()) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return ""
