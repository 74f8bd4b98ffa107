"""What each value of a factor changes, paired over seeds and over all else that is equal.

Two jobs are a pair where they differ in the factor alone. The differences of one seed are averaged first: the jobs of a
seed share their initial weights and the order of their data, so they are no independent observations. What is left is
one number a seed, and a t interval over the seeds covers the true effect as often as it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from plainloop.report.sweep.jobs import REPLICATES, Job, Metric, canonical, differing

LEVEL = 0.95
DEFAULT_BASELINES = ("none", "null", "default", "false", "0", "0.0")  # values that switch something off


@dataclass(frozen=True)
class Effect:
    """What one value changes, in units of the metric.

    Args:
        num_units: seeds (or folds), of which each gives one number.
        num_settings: of the other factors, over which each of these is averaged.
        low, high: the 95 % interval; None with a single seed.
        missing: pairs that are not there, because a job is not done or was never part of the sweep.
        pairs: that were used, of all that there should be.
    """

    value: str
    mean: float | None
    low: float | None
    high: float | None
    num_units: int
    num_settings: int
    pairs: tuple[int, int]
    missing: tuple[str, ...] = ()

    def verdict(self, metric: Metric) -> str:
        if self.mean is None:
            return "no pair of finished jobs"
        if self.low is None or self.high is None:
            return "one seed says nothing about luck"
        if self.low <= 0 <= self.high:
            return f"not distinguishable with n = {self.num_units}"
        return "better" if (self.mean < 0) == metric.smaller else "worse"


@dataclass(frozen=True)
class Factor:
    """A key with several values, each compared with the baseline."""

    key: str
    baseline: str
    effects: tuple[Effect, ...]
    unit: str  # what n counts: "seed" or "data.fold"


def factor_of(jobs: Sequence[Job], key: str, metric: Metric, baseline: str | None = None) -> Factor:
    """Raises ValueError where the baseline is no value of the key."""
    first: dict[str, str] = {}  # how a value was spelled first: 0.1 and 1e-1 are the same

    def value(job: Job, name: str) -> str:
        text = job.values.get(name, "")
        return first.setdefault(canonical(text), text)

    values = list(dict.fromkeys(value(job, key) for job in jobs))
    base = first.get(canonical(baseline), "") if baseline is not None else _baseline(values)
    if base not in values:
        raise ValueError(f"{baseline} is no value of {key}")
    others = [other for other in differing(jobs) if other != key]
    replicates = [name for name in REPLICATES if len({job.values.get(name, "") for job in jobs}) > 1]
    unit, inner = (replicates or ["seed"])[0], replicates[1:]  # folds of a seed are averaged, as other factors are
    cells: dict[tuple[str, ...], dict[str, dict[str, list[float]]]] = {}  # setting -> seed -> value -> scores
    for job in jobs:
        setting = tuple(value(job, name) for name in (*others, *inner))
        scores = cells.setdefault(setting, {}).setdefault(value(job, unit), {}).setdefault(value(job, key), [])
        if (score := job.result(metric.key)) is not None:
            scores.append(score)
    found = tuple(_effect(cells, one, base, (*others, *inner), unit) for one in values if one != base)
    return Factor(key, base, found, unit)


Cells = Mapping[tuple[str, ...], Mapping[str, Mapping[str, Sequence[float]]]]


def _effect(cells: Cells, value: str, base: str, names: Sequence[str], unit: str) -> Effect:
    """Settings in which neither value was tried do not count: a sweep need not be a full grid."""
    differences: dict[tuple[str, ...], dict[str, float]] = {}
    missing, tried = [], 0
    for setting, seeds in cells.items():
        if not any(value in by_value for by_value in seeds.values()):
            continue
        for seed, by_value in seeds.items():
            tried += 1
            if by_value.get(value) and by_value.get(base):
                differences.setdefault(setting, {})[seed] = fmean(by_value[value]) - fmean(by_value[base])
            else:
                missing.append(
                    " ".join(f"{name}={text}" for name, text in zip((*names, unit), (*setting, seed)) if text)
                )
    units = {seed for found in differences.values() for seed in found}
    whole = {setting: found for setting, found in differences.items() if set(found) == units}
    used = whole or differences  # where each seed has the same settings, what they change differently is no noise
    per_seed = [fmean(found[seed] for found in used.values() if seed in found) for seed in sorted(units)]
    count = sum(map(len, used.values()))
    low, high = interval(per_seed)
    mean = fmean(per_seed) if per_seed else None
    return Effect(value, mean, low, high, len(per_seed), len(used), (count, tried), tuple(missing))


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float | None, float | None]:
    """The t interval of the mean of independent values; (None, None) for fewer than two.

    >>> [round(end, 3) for end in interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    if len(values) < 2:
        return None, None
    half = t_quantile((1 + level) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_quantile(p: float, degrees: int) -> float:
    """The p quantile (p > 0.5) of Student's t distribution, by bisection of its distribution function.

    >>> [round(t_quantile(0.975, degrees), 3) for degrees in (1, 2, 9, 100)]
    [12.706, 4.303, 2.262, 1.984]
    """
    low, high = 0.0, 1e6
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def t_probability(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0, by the finite sums for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    >>> round(t_probability(2.0, 5), 6), t_probability(0.0, 4)
    (0.94903, 0.5)
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    if degrees % 2:
        term = cosine
        for k in range(1, degrees - 1, 2):
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        return 0.5 + (angle + math.sin(angle) * total) / math.pi
    for k in range(0, degrees - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return 0.5 + math.sin(angle) * total / 2


def _baseline(values: Sequence[str]) -> str:
    """What switches the factor off where there is such a value, else the first that was typed."""
    spelled = {canonical(value): value for value in values}
    return next((spelled[canonical(name)] for name in DEFAULT_BASELINES if canonical(name) in spelled), values[0])
