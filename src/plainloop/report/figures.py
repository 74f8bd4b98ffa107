"""Drawings for pages, as SVG text: curves, points over a value, parallel coordinates, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from plainloop.report.page import text

WIDTH, HEIGHT = 480, 280  # units; the page makes them as wide as there is room
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # margins, for the numbers of the axes
MOST_POINTS = 400  # of a curve: more than pixels
LONGEST = 26  # characters of a name
NUM_COLOURS = 8
FIRST = 72  # of parallel axes: the names of its values stand before it


@dataclass(frozen=True)
class Curve:
    """`colour` is one of page.COLOURS by number; None draws it faintly behind the others."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int | None = None


@dataclass(frozen=True)
class Axis:
    """Values to units of the drawing: `low` lies at `start`, `high` at `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / ((high - low) or 1.0) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers inside, about five.

        >>> Axis(0.0, 0.93, 0, 1).ticks(), Axis(0.001, 0.1, 0, 1, log=True).ticks()
        ([0.0, 0.2, 0.4, 0.6, 0.8], [0.001, 0.01, 0.1])
        """
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            found = [10.0**power for power in powers]
            return found if len(found) > 1 else [self.low, self.high]
        span = (self.high - self.low) or 1.0
        scale = 10.0 ** math.floor(math.log10(span / 4))
        step = next(size * scale for size in (1, 2, 5, 10) if span / (size * scale) <= 5.5)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def colour(number: int | None) -> str:
    return "var(--soft)" if number is None else f"var(--c{number % NUM_COLOURS})"


def span(values: Iterable[float], *, room: float = 0.04) -> tuple[float, float]:
    """The smallest and largest of finite values, with some room around; (0, 1) where there are none.

    >>> span([1.0, 2.0], room=0.0), span([2.0, 2.0], room=0.0)
    ((1.0, 2.0), (1.0, 3.0))
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    more = (high - low) * room if high > low else abs(high) * room or 1.0
    return low - more, high + more


def curves(found: Sequence[Curve], *, x: str, log: bool = False) -> str:
    """Lines over steps or epochs. Faint ones lie behind; the pointer shows a line's name."""
    kept = [(curve, [p for p in curve.points if math.isfinite(p[1]) and (p[1] > 0 or not log)]) for curve in found]
    low, high = span(p[1] for _, points in kept for p in points)
    low = min((p[1] for _, points in kept for p in points), default=1.0) if log else low
    across = Axis(*span((p[0] for _, points in kept for p in points), room=0.0), LEFT, WIDTH - RIGHT)
    up = Axis(low, high, HEIGHT - BOTTOM, TOP, log=log)
    parts = list(_axes(across, up, x))
    for curve, points in sorted(kept, key=lambda pair: pair[0].colour is not None):
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in thinned(points))
        style = "class=behind" if curve.colour is None else f'style="stroke:{colour(curve.colour)}"'
        parts.append(f'<polyline points="{path}" {style}><title>{text(curve.name)}</title></polyline>')
    return _drawing(parts)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS of them, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def points(groups: Sequence[tuple[str, Sequence[float]]], *, x: str) -> str:
    """Values over one setting: each job a dot, each mean a bar. Numbers lie on an axis, names side by side."""
    up = Axis(*span(value for _, values in groups for value in values), HEIGHT - BOTTOM, TOP)
    numbers = [as_number(name) for name, _ in groups]
    known = [number for number in numbers if number is not None]
    if len(known) == len(groups) and len(set(known)) > 1:
        across = axis_of(known, LEFT + 14, WIDTH - RIGHT - 14)
        parts, places = list(_axes(across, up, x)), [across(number) for number in known]
    else:
        parts = list(_axes(None, up, x))
        places = [LEFT + (i + 0.5) * (WIDTH - LEFT - RIGHT) / len(groups) for i in range(len(groups))]
        room = max(3, round((WIDTH - LEFT - RIGHT) / len(groups) / 6))  # characters
        for place, (name, _) in zip(places, groups, strict=True):
            parts.append(
                f'<text class=tick x="{place:.1f}" y="{HEIGHT - 18}" text-anchor=middle>{short(name, room)}</text>'
            )
    for place, (name, values) in zip(places, groups, strict=True):
        title = f"<title>{text(name)}: {', '.join(f'{value:.4g}' for value in values)}</title>"
        dots = (
            f'<circle cx="{place:.1f}" cy="{up(value):.1f}" r=3 style="fill:var(--c0)" fill-opacity=.6 />'
            for value in values
        )
        mean = up(sum(values) / len(values))
        bar = f'<path d="M{place - 8:.1f} {mean:.1f}h16" style="stroke:var(--c1);stroke-width:2.5"/>'
        parts.append(f"<g>{title}{''.join(dots)}{bar}</g>")
    return _drawing(parts)


def parallel(names: Sequence[str], rows: Sequence[tuple[Sequence[str], float]], *, metric: str) -> str:
    """One line a setting, best first, through its value of each key to its result; the first three have colours."""
    columns = [FIRST + i * (WIDTH - FIRST - 64) / max(1, len(names)) for i in range(len(names) + 1)]
    scales = [_scale([values[i] for values, _ in rows]) for i in range(len(names))]
    results = Axis(*span(result for _, result in rows), HEIGHT - BOTTOM, TOP + 12)
    parts = []
    for number, (values, result) in reversed(list(enumerate(rows))):
        places = [(columns[i], scales[i][value]) for i, value in enumerate(values)] + [(columns[-1], results(result))]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        style = f'style="stroke:{colour(number)}"' if number < 3 else "class=behind"
        title = text(" ".join(f"{name}={value}" for name, value in zip(names, values, strict=True)))
        parts.append(f'<polyline points="{path}" {style}><title>{title}: {result:.4g}</title></polyline>')
    for column, name, scale in zip(columns, names, scales, strict=False):
        parts.append(f'<path class=axis d="M{column:.1f} {TOP + 12}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{column:.1f}" y="{HEIGHT - 12}" text-anchor=middle>{short(name, 18)}</text>')
        shown = list(scale.items())[:12]
        parts += [
            f'<text class=tick x="{column - 4:.1f}" y="{y + 4:.1f}" text-anchor=end>{short(value, 9)}</text>'
            for value, y in shown
        ]
    parts.append(f'<path class=axis d="M{columns[-1]:.1f} {TOP + 12}V{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text x="{columns[-1]:.1f}" y="{HEIGHT - 12}" text-anchor=middle>{short(metric, 14)}</text>')
    parts += [
        f'<text class=tick x="{columns[-1] + 5:.1f}" y="{results(t) + 4:.1f}">{t:g}</text>' for t in results.ticks()
    ]
    return _drawing(parts)


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]], *, x: str) -> str:
    """Each value's change and its interval, beside a line at 0."""
    height, left = 24, 150
    ends = [end for _, mean, low, high in rows for end in (0.0, mean, low, high) if end is not None]
    across = Axis(*span(ends, room=0.06), left, WIDTH - RIGHT - 16)
    bottom = TOP + height * len(rows)
    parts = [f'<path class=axis d="M{across(0):.1f} {TOP}V{bottom}" style="stroke:var(--ink)"/>']
    for tick in across.ticks():
        parts.append(f'<text class=tick x="{across(tick):.1f}" y="{bottom + 14}" text-anchor=middle>{tick:+g}</text>')
    for number, (name, mean, low, high) in enumerate(rows):
        y = TOP + height * (number + 0.5)
        clear = low is not None and high is not None and not low <= 0 <= high
        style = f"var({'--c0' if clear else '--soft'})"
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor=end>{short(name, 22)}</text>')
        if low is not None and high is not None:
            parts.append(
                f'<path d="M{across(low):.1f} {y:.1f}H{across(high):.1f}" style="stroke:{style};stroke-width:2.5"/>'
            )
        title = f"<title>{text(name)}</title>"
        parts.append(f'<circle cx="{across(mean):.1f}" cy="{y:.1f}" r=4 style="fill:{style}">{title}</circle>')
    parts.append(f'<text x="{(left + WIDTH) / 2:.1f}" y="{bottom + 30}" text-anchor=middle>{text(x)}</text>')
    return _drawing(parts, height=bottom + 36)


def axis_of(values: Sequence[float], start: float, stop: float) -> Axis:
    """Logarithmic where positive values lie far apart."""
    low, high = min(values), max(values)
    return Axis(low, high, start, stop, log=low > 0 and high / low > 20)


def as_number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def short(name: str, most: int = LONGEST) -> str:
    """Escaped, with dots where it is longer.

    >>> short("crop_flip,mixup_or_cutmix", 10), short("a<b")
    ('crop_fl...', 'a&lt;b')
    """
    return text(name if len(name) <= most else f"{name[: max(1, most - 3)]}...")


def _scale(values: Sequence[str]) -> dict[str, float]:
    """Each value's height on an axis of its own."""
    names = list(dict.fromkeys(values))
    numbers = {name: number for name in names if (number := as_number(name)) is not None}
    if len(numbers) == len(names) and len(set(numbers.values())) > 1:
        axis = axis_of(list(numbers.values()), HEIGHT - BOTTOM - 6, TOP + 18)
        return {name: axis(numbers[name]) for name in sorted(numbers, key=lambda name: numbers[name])}
    axis = Axis(0, max(1, len(names) - 1), TOP + 18, HEIGHT - BOTTOM - 6)
    return {name: axis(i) for i, name in enumerate(names)}


def _axes(across: Axis | None, up: Axis, x: str) -> Iterator[str]:
    yield f'<path class=axis d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    for tick in up.ticks():
        yield f'<path class=axis d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}" stroke-opacity=.5 />'
        yield f'<text class=tick x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor=end>{tick:g}</text>'
    for tick in across.ticks() if across else ():
        yield f'<text class=tick x="{across(tick):.1f}" y="{HEIGHT - 18}" text-anchor=middle>{tick:g}</text>'  # type: ignore[misc]
    yield f'<text x="{(LEFT + WIDTH) / 2:.1f}" y="{HEIGHT - 3}" text-anchor=middle>{text(x)}</text>'


def _drawing(parts: Sequence[str], *, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role=img>{"".join(parts)}</svg>'
