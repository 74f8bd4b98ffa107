"""Lines about a measured model: its metrics with their intervals, single classes, the confusion matrix, comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plainloop.loggers.numbers import score

MOST_CLASSES = 20  # lines
MOST_WIDTH = 80  # columns of a confusion matrix
MOST_MIX_UPS = 10

Interval = tuple[float, float]


def metric_lines(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> Iterator[str]:
    """All metrics but those of single classes."""
    whole = [name for name in metrics if "/" not in name]
    width = max(map(len, whole), default=0)
    if intervals:
        yield f"{'':<{width}}  {'':>8}   95 % interval"
    for name in whole:
        yield f"{name:<{width}}  {_with_interval(metrics[name], intervals.get(name))}"


def class_lines(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> Iterator[str]:
    """The metrics of single classes, "accuracy/cat"; of many classes the lowest."""
    of_classes = [name for name in metrics if "/" in name]
    for kind in dict.fromkeys(name.partition("/")[0] for name in of_classes):
        names = [name for name in of_classes if name.startswith(f"{kind}/")]
        shown = sorted(names, key=lambda name: (metrics[name] != metrics[name], metrics[name]))[:MOST_CLASSES]
        if len(names) <= MOST_CLASSES:
            shown = names
        rest = f", the lowest {len(shown)} of {len(names)} classes" if len(shown) < len(names) else ""
        yield f"{kind} of each class{rest}"
        width = min(40, max(len(name) - len(kind) - 1 for name in shown))
        for name in shown:
            label = name.partition("/")[2]
            yield f"  {_cut(label, width):<{width}}  {_with_interval(metrics[name], intervals.get(name))}"


def confusion_lines(confusion: Sequence[Sequence[int]], names: Sequence[str], *, of: str) -> Iterator[str]:
    """The matrix (C, C) where it fits the screen; else which classes are mixed up most. `of`: samples or pixels."""
    names = [names[number] if number < len(names) else str(number) for number in range(len(confusion))]
    shown = [[_count(value, sum(row), of) for value in row] for row in confusion]
    cell = 1 + max((len(text) for row in shown for text in row), default=1)
    cell, label = max(cell, 1 + len(str(len(names)))), min(16, max(map(len, names), default=0))
    if label + 5 + cell * len(names) <= MOST_WIDTH:
        unit = "" if of == "samples" else ", percent of the class"
        yield f"confusion matrix, {of}{unit}: a row for each class, a column for what was predicted"
        yield f"{'':{label + 5}}" + "".join(f"{number:>{cell}}" for number in range(len(names)))
        for number, row in enumerate(shown):
            yield f"{_cut(names[number], label):<{label}} {number:>4}" + "".join(f"{text:>{cell}}" for text in row)
        return
    pairs = [(confusion[i][j], i, j) for i in range(len(names)) for j in range(len(names)) if i != j]
    most = [pair for pair in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:MOST_MIX_UPS] if pair[0]]
    yield f"mixed up most ({of}; the whole matrix is in results.json)"
    for number, i, j in most:
        yield f"  {number:>7,}  {names[i]} taken for {names[j]}"


def comparison_lines(
    metrics: Sequence[Mapping[str, float]],
    names: Sequence[str],
    paired: Sequence[Mapping[str, tuple[float, Interval | None]]],
) -> Iterator[str]:
    """The metrics of several models side by side; `paired` holds each later one minus the first."""
    whole = [name for name in metrics[0] if "/" not in name and all(name in other for other in metrics)]
    width = max(map(len, whole), default=0)
    for number, name in enumerate(names):
        yield f"{_letter(number)} = {name}"
    yield f"{'':{width}}" + "".join(f"{_letter(number):>9}" for number in range(len(names)))
    for name in whole:
        yield f"{name:<{width}}" + "".join(f"{score(of_model[name]):>9}" for of_model in metrics)
    for number, differences in enumerate(paired, start=1):
        yield f"{_letter(number)} - {_letter(0)}"
        for name in whole:
            value, interval = differences[name]
            sure = ""
            if interval is not None and interval[0] == interval[0]:
                sure = "  differs" if interval[0] > 0 or interval[1] < 0 else "  may be chance"
            yield f"  {name:<{width}}  {_signed(value)}{_between(interval, _signed)}{sure}"


def _letter(number: int) -> str:
    """
    >>> _letter(0), _letter(27)
    ('A', 'B1')
    """
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number % 26] + (str(number // 26) if number >= 26 else "")


def _with_interval(value: float, interval: Interval | None) -> str:
    return f"{score(value):>8}{_between(interval, score)}"


def _between(interval: Interval | None, form: Any) -> str:
    return "" if interval is None or interval[0] != interval[0] else f"   {form(interval[0])} to {form(interval[1])}"


def _signed(value: float) -> str:
    return f"+{score(value)}" if value >= 0 else score(value)


def _count(value: int, total: int, of: str) -> str:
    if of == "samples":
        return str(value)
    return f"{100 * value / total:.1f}" if total else "-"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
