"""What metrics can tell of a pass beside numbers: see `GivesDetails` in contracts.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOX = "box_"  # before the names of the metrics of boxes where those of masks have the plain names


@dataclass(frozen=True)
class Table:
    """For people. The first column names the rows; None in another one is nothing."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Curves:
    """For people: lines in one drawing."""

    title: str
    x: str  # what the axes are
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Details:
    """What a pass over a split has found beside its metrics."""

    columns: Sequence[str] = ()  # of `samples`, but for the first, which is the sample's index
    samples: Sequence[Sequence[float]] = ()  # (N, 1 + columns), by index; NaN where there is nothing to say
    tables: Sequence[Table] = ()
    curves: Sequence[Curves] = ()
    about: str = ""  # how was counted
    least_score: float | None = None  # of the detections that were counted
