"""Curves of a run as SVG, and the numbers that they answer to the pointer with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plainloop.loggers.numbers import amount, digits, score
from plainloop.tasks.details import BOX

WIDTH, HEIGHT = 440, 240  # of the SVG's own units
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26  # of the axes, from its sides
POINTS = 300  # of a line; more are reduced to the least and greatest of each part
LONGEST_TICK = 6  # characters beside the axis
LOG_FROM = 20.0  # the greatest over the least value, from which on losses have a logarithmic scale

# Name on the line -> key; `{}` is the monitored metric without its split, in the title what `named` calls it.
CHARTS = (
    ("Loss", {"training": "train/loss", "validation": "val/loss", "training images": "train_eval/loss"}, digits),
    ("{}", {"training": "train/{}", "validation": "val/{}", "training images": "train_eval/{}"}, score),
    (
        "{} of boxes",
        {
            "training": f"train/{BOX}{{}}",
            "validation": f"val/{BOX}{{}}",
            "training images": f"train_eval/{BOX}{{}}",
        },
        score,
    ),
    ("Learning rate", {"learning rate": "train/lr"}, lambda value: digits(value, num=2)),
    ("Images per second", {"images/s": "time/images_per_s"}, amount),
)


COLOURS = {"training": 0, "validation": 1, "training images": 2}

LARGEST = 1e300  # the difference of two larger numbers may be infinite


@dataclass(frozen=True)
class Line:
    name: str
    number: int  # of its colour
    points: list[tuple[float, float]]  # epoch, value
    path: str  # of the SVG


@dataclass(frozen=True)
class Chart:
    title: str
    lines: list[Line]
    ticks_x: list[tuple[float, str]]  # place, text
    ticks_y: list[tuple[float, str]]
    best_x: float | None  # place of the best evaluation
    data: dict[str, Any]  # what the page's script reads


def charts(
    rows: Sequence[Mapping[str, float]], *, monitor: str, best_epoch: float | None, epochs: float
) -> list[Chart]:
    """Those that have something to show; `epochs` is where a finished run ends."""
    metric = monitor.rpartition("/")[2]
    found = []
    for title, keys, form in CHARTS:
        if title == "{}" and metric == "loss":
            continue
        series = {name: _series(rows, key.format(metric)) for name, key in keys.items()}
        series = {name: points for name, points in series.items() if points}
        if series:
            best = best_epoch if any(key.startswith("val/") for key in keys.values()) else None
            zero = title in ("Learning rate", "Images per second")
            called = named(metric, rows) if title == "{}" else metric
            found.append(_chart(title.format(called), series, form, best=best, epochs=epochs, zero=zero))
    return found


def named(monitor: str, rows: Sequence[Mapping[str, float]]) -> str:
    """The metric as a person is told it: where boxes have one of their own, that of the plain name is of masks.

    >>> named("val/map", [{"val/map": 0.2, "val/box_map": 0.3}]), named("val/map", [{"val/map": 0.2}])
    ('val/map of masks', 'val/map')
    """
    key = f"val/{BOX}{monitor.rpartition('/')[2]}"
    return f"{monitor} of masks" if any(key in row for row in rows) else monitor


def _series(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    points = [(row.get("epoch", row["step"]), row[key]) for row in rows if key in row and abs(row[key]) < LARGEST]
    return reduced([point for point in points if math.isfinite(point[0])])


def reduced(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 2 * POINTS of them: the least and the greatest of each part, so that no peak is lost.

    >>> len(reduced([(float(i), float(i % 7)) for i in range(10_000)])) <= 2 * POINTS
    True
    """
    if len(points) <= 2 * POINTS:
        return points
    kept = {points[0], points[-1]}
    for part in range(POINTS - 1):
        some = points[part * len(points) // (POINTS - 1) : (part + 1) * len(points) // (POINTS - 1)]
        kept |= {min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])}
    return sorted(kept)


def _chart(title: str, series: dict[str, Any], form: Any, *, best: float | None, epochs: float, zero: bool) -> Chart:
    values = [value for points in series.values() for _, value in points]
    end = max(epochs, *(points[-1][0] for points in series.values())) or 1.0
    low, high = min(values), max(values)
    log = title == "Loss" and low > 0 and high > LOG_FROM * low
    low = 0.0 if zero and low >= 0 else low
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    scale = math.log if log else float

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * epoch / end, 1)

    def y(value: float) -> float:
        share = (scale(value) - scale(low)) / ((scale(high) - scale(low)) or 1.0)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    lines = []
    for name, points in series.items():
        path = "M" + "L".join(f"{x(epoch)} {y(value)}" for epoch, value in points)
        lines.append(Line(name, COLOURS.get(name, 0), points, path))
    data = {
        "title": title,
        "lines": [
            {"name": line.name, "colour": line.number, "at": [[x(e), y(v), _short(e), form(v)] for e, v in line.points]}
            for line in lines
        ],
    }
    ticks_x = [(x(tick), f"{tick:g}") for tick in _ticks(0.0, end) if tick <= end]
    best_x = x(best) if best is not None else None
    return Chart(title, lines, ticks_x, [(y(tick), _tick_text(tick)) for tick in ticks], best_x, data)


def _short(epoch: float) -> str:
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


def _tick_text(tick: float) -> str:
    """
    >>> _tick_text(0.00015), _tick_text(0.25), _tick_text(20_000)
    ('1.5e-4', '0.25', '20.0k')
    """
    text = amount(tick) if abs(tick) >= 10_000 else f"{tick:g}"
    return (text if len(text) <= LONGEST_TICK else f"{tick:.1e}").replace("e-0", "e-")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, about five.

    >>> _ticks(0.0, 40.0), _ticks(0.91, 0.99)
    ([0.0, 10.0, 20.0, 30.0, 40.0], [0.9, 0.92, 0.94, 0.96, 0.98, 1.0])
    """
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = min((unit * factor for factor in (1, 2, 5, 10)), key=lambda one: abs(one - rough))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """
    >>> _log_ticks(0.04, 2.3)
    [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high < 1e3 * low else (1,)
    every = [float(f"{factor}e{power}") for power in powers for factor in factors]
    below, above = [t for t in every if t <= low], [t for t in every if t >= high]
    return [tick for tick in every if below[-1] <= tick <= above[0]] if below and above else [low, high]
