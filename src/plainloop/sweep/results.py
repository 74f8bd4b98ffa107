"""The results of one or several sweeps, read from their jobs' files, for the table and the comparison. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plainloop.config.nodes import leaves
from plainloop.errors import BadConfig, BadData, printable
from plainloop.report.sweep.jobs import REPLICATES, Job, Metric
from plainloop.run_dir.config_file import read_config, read_yaml
from plainloop.run_dir.status import read_summary
from plainloop.sweep.outcome import Row
from plainloop.system.secrets import looks_secret, redact

REMOVED = "(removed)"  # the value that `~augment.flip` gives its key
NOT_KNOWN = "(not typed)"


def read(sweeps: Mapping[Path, Sequence[Row]]) -> list[Job]:
    """The jobs of all sweeps. A config that several sweeps have is one job: the one that is done, else the first."""
    jobs: list[Job] = []
    places: dict[str, int] = {}  # of a config among the jobs, by hash
    for sweep, rows in sweeps.items():
        name = f"{sweep.absolute().name}/" if len(sweeps) > 1 else ""
        new = dict[str, int]()
        for row in rows:
            job, place = _job(row, f"{name}{row.number}"), places.get(row.hash)
            if place is None:
                new.setdefault(row.hash, len(jobs))
                jobs.append(job)
            elif jobs[place].state != "DONE":
                jobs[place] = job
        places |= new
    return _with_missing_values(jobs)


def metric_of(jobs: Sequence[Job], name: str | None = None, *, last: bool = False) -> Metric:
    """What to compare by: the metric `name`, else the one that decided which checkpoint is the best in most jobs.

    Of the best evaluation where it is known, unless `last`. Raises BadConfig where no finished job has it.
    """
    known = Counter(key for job in jobs for key in job.results)
    best = [key.removeprefix("best ") for key, _ in known.most_common() if key.startswith("best ")]
    if not known or (name is None and not best):
        hint = "look at it with: python scripts/sweep.py status <sweep dir>"
        raise BadConfig("no job of this sweep is done and has a result: there is nothing to compare yet", hint=hint)
    name = name or best[0]
    at = next((at for at in ("last",) if last or f"best {name}" not in known), "best")
    if f"{at} {name}" not in known:
        names = sorted({key.partition(" ")[2] for key in known})
        raise BadConfig(f"--metric {name}: no finished job has it", hint=f"type one of {', '.join(names)}")
    modes = Counter(job.modes[name] for job in jobs if name in job.modes)
    mode = modes.most_common(1)[0][0] if modes else "min" if re.search(r"loss|error", name) else "max"
    return Metric(name, at, smaller=mode == "min")


def _job(row: Row, name: str) -> Job:
    results, modes = dict[str, float](), dict[str, str]()
    why = row.why
    if row.state == "DONE":
        try:
            final = (read_summary(row.folder) or {}).get("final", {})
        except BadData as error:
            final, why = {}, str(error)
        results = {f"last {printable(key)}": value for key, value in final.items() if _is_number(value)}
        if row.best and _is_number(row.best.get("value")):
            metric = printable(row.best["metric"])
            results[f"best {metric}"] = row.best["value"]
            if row.best.get("mode") in ("max", "min"):
                modes[metric] = row.best["mode"]
    return Job(name, typed(row.overrides), row.state, row.folder, results, modes, row.minutes, why, row.hash)


def typed(overrides: Sequence[str]) -> dict[str, str]:
    """
    >>> typed(["seed=1", "+augment.blur={p:0.5}", "~augment.flip", "logger.wandb.api_key=0123456789"])
    {'seed': '1', 'augment.blur': '{p:0.5}', 'augment.flip': '(removed)', 'logger.wandb.api_key': '***'}
    """
    found = {}
    for text in overrides:
        key, _, value = printable(text).lstrip("+~").partition("=")
        found[key] = REMOVED if text.startswith("~") else "***" if looks_secret(key) else redact(value)
    return found


def _with_missing_values(jobs: Sequence[Job]) -> list[Job]:
    """Where a key was typed for some jobs only, as when sweeps are joined, the others show what their configs say."""
    keys = dict.fromkeys(key for job in jobs for key in job.values if key not in REPLICATES)
    known: dict[tuple[Any, ...], dict[str, str]] = {}  # by what was typed: seeds change no other value
    whole = []
    for job in jobs:
        missing = [key for key in keys if key not in job.values]
        if missing:
            same = (job.folder.parent, *((k, v) for k, v in job.values.items() if k not in REPLICATES))
            if same not in known:
                known[same] = _saved(job.folder, missing)
            job = replace(
                job, values={key: {**known[same], **job.values}.get(key, NOT_KNOWN) for key in (*keys, *job.values)}
            )
        whole.append(job)
    return whole


def _saved(folder: Path, keys: Sequence[str]) -> dict[str, str]:
    """What a job's files say about keys and groups; nothing where they cannot be read."""
    try:
        values = dict(leaves(read_config(folder)))
        chosen = read_yaml(folder / ".hydra" / "hydra.yaml").get("hydra", {}).get("runtime", {}).get("choices", {})
    except (BadConfig, BadData, OSError, ValueError, AttributeError):
        return {}
    values = values | chosen if isinstance(chosen, dict) else values  # the option of a group, not what is in it
    found = {key: values.get(key) for key in keys}
    return {key: _as_typed(value) for key, value in found.items() if isinstance(value, str | int | float | list)}


def _as_typed(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
