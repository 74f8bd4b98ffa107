"""The jobs of one or several sweeps, as the table and the comparison take them: plain data, from whatever files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

REPLICATES = ("seed", "data.fold")  # jobs that differ in these alone are the same experiment, repeated


@dataclass(frozen=True)
class Job:
    """
    Args:
        name: its number, after the sweep's name where there are several.
        values: what was typed for it, key -> text.
        results: of a job that is done: "best val/top1" or "last val/loss" -> value; {} otherwise.
        modes: metric -> which of its values is better, max or min, where that is known.
        why: of a job that failed.
        hash: of its config.
    """

    name: str
    values: Mapping[str, str]
    state: str
    folder: Path
    results: Mapping[str, float] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    minutes: float = 0.0
    why: str = ""
    hash: str = ""

    def result(self, metric: str) -> float | None:
        value = self.results.get(metric)
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Metric:
    """What jobs are compared by.

    Args:
        name: as results have it: "val/top1".
        at: "best" for that of the best evaluation, "last" for that of the last one.
        smaller: whether smaller is better.
    """

    name: str
    at: str
    smaller: bool

    @property
    def key(self) -> str:
        """Its name among the results of a job."""
        return f"{self.at} {self.name}"

    def best_first(self, value: float) -> float:
        return value if self.smaller else -value


@dataclass(frozen=True)
class Group:
    """Jobs that differ in seed or fold alone."""

    values: tuple[str, ...]  # of the keys that differ
    jobs: tuple[Job, ...]
    scores: tuple[float, ...]  # of the jobs that are done

    @property
    def mean(self) -> float | None:
        return fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        """None for a single score."""
        return stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Table:
    """All jobs, best group first; `keys` are those that differ, without seed and fold."""

    keys: tuple[str, ...]
    groups: tuple[Group, ...]
    metric: Metric
    replicates: tuple[str, ...]  # those of REPLICATES that differ
    jobs: tuple[Job, ...]  # all, as they were typed

    def best(self) -> tuple[Group, Job] | None:
        """The group with the best mean, and its best job. The best of all jobs would often only be the luckiest."""
        if not self.groups or self.groups[0].mean is None:
            return None
        scored = [(score, job) for job in self.groups[0].jobs if (score := job.result(self.metric.key)) is not None]
        return self.groups[0], min(scored, key=lambda pair: self.metric.best_first(pair[0]))[1]


def fold(jobs: Sequence[Job], metric: Metric) -> Table:
    """
    >>> job = lambda lr, seed, top1: Job("0", {"lr": lr, "seed": seed}, "DONE", Path(), {"best val/top1": top1})
    >>> jobs = [job("0.1", "0", 0.5), job("0.1", "1", 0.7), job("1e-1", "2", 0.9), job("1", "0", 0.8)]
    >>> [(group.values, round(group.mean, 3)) for group in fold(jobs, Metric("val/top1", "best", smaller=False)).groups]
    [(('1',), 0.8), (('0.1',), 0.7)]
    """
    keys, replicates = differing(jobs), tuple(key for key in REPLICATES if key in _differing(jobs))
    found: dict[tuple[str, ...], list[Job]] = {}
    shown: dict[tuple[str, ...], tuple[str, ...]] = {}
    for job in jobs:
        values = tuple(job.values.get(key, "") for key in keys)
        same = tuple(map(canonical, values))
        found.setdefault(same, []).append(job)
        shown.setdefault(same, values)
    groups = []
    for same, members in found.items():
        scores = tuple(score for job in members if (score := job.result(metric.key)) is not None)
        groups.append(Group(shown[same], tuple(members), scores))
    groups.sort(key=lambda group: math.inf if group.mean is None else metric.best_first(group.mean))
    return Table(keys, tuple(groups), metric, replicates, tuple(jobs))


def differing(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Keys whose values are not the same for all jobs, in the order in which they were typed; not seed and fold."""
    return tuple(key for key in _differing(jobs) if key not in REPLICATES)


def _differing(jobs: Sequence[Job]) -> list[str]:
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    return [key for key in keys if len({canonical(job.values.get(key, "")) for job in jobs}) > 1]


def canonical(text: str) -> str:
    """Equal for values that are the same number, however they are written.

    >>> canonical("1e-1") == canonical("0.10"), canonical("[crop_flip, cutmix]") == canonical("[crop_flip,cutmix]")
    (True, True)
    """
    try:
        return repr(float(text))
    except ValueError:
        return re.sub(r"\s+", "", text)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, with as many parts before it as tell them apart.

    >>> short_names(["optimizer.lr", "optimizer.weight_decay", "data.train.batch_size", "data.batch_size"])
    {'optimizer.lr': 'lr', 'optimizer.weight_decay': 'weight_decay', 'data.train.batch_size': 'train.batch_size', \
'data.batch_size': 'data.batch_size'}
    """
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [other for other in keys if other != key]
        length = next(
            (n for n in range(1, len(parts)) if not any(other.split(".")[-n:] == parts[-n:] for other in ends)),
            len(parts),
        )
        names[key] = ".".join(parts[-length:])
    return names
