"""What was typed for a run, and which of it tells a job of a sweep from the others; Hydra's and the sweep's files."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from plainloop.system import storage

MOST_BYTES = 1_000_000


def overrides_of(folder: Path) -> list[str]:
    """`key=value` as they were typed, for this job alone; [] for a run that Hydra did not start. Raises BadData."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.exists():
        return []
    try:
        found = yaml.safe_load(storage.read_whole(path, most=MOST_BYTES).decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise storage.not_a_runs(path, str(error).partition("\n")[0]) from error
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def sweep_of(folder: Path) -> Path | None:
    """The sweep's folder; None for a run that belongs to none."""
    return folder.parent if (folder.parent / "jobs.jsonl").exists() else None


def varied_overrides(folder: Path) -> list[str]:
    """Those that not all jobs of the sweep have; [] outside of a sweep."""
    sweep = sweep_of(folder)
    if sweep is None:
        return []
    jobs = storage.read_lines(sweep / "jobs.jsonl", {"overrides": list})
    in_all = (
        set.intersection(*({json.dumps(one) for one in job.get("overrides", [])} for job in jobs)) if jobs else set()
    )
    return [one for one in overrides_of(folder) if json.dumps(one) not in in_all]
