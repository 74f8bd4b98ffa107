"""Learning-rate schedules beside one another: in a terminal by block characters, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.config.durations import Clock, clock_of
from plainloop.config.parts import base_lr_of, schedule_of
from plainloop.contracts import Schedule
from plainloop.errors import printable
from plainloop.loggers.numbers import digits
from plainloop.report.plan import draw

WIDTH, HEIGHT = 64, 4  # characters of each curve
MOST_POINTS = 5000  # of a curve in the picture


@dataclass(frozen=True)
class Curve:
    """The rates of one run; `label` says how it differs from the others."""

    label: str
    base_lr: float
    schedule: Schedule
    clock: Clock

    def rate(self, step: int) -> float:
        return self.base_lr * self.schedule(step)

    def steps(self, num: int) -> list[int]:
        """So many steps, or all, evenly spread, the first and the last among them.

        >>> Curve("", 0.1, lambda step: 1.0, Clock(10, 100)).steps(4)
        [0, 33, 66, 99]
        """
        last = self.clock.total_steps - 1
        return [round(i * last / max(1, num - 1)) for i in range(num)] if num <= last else list(range(last + 1))


def curve_of(label: str, config: Mapping[str, Any]) -> Curve:
    return Curve(label, base_lr_of(config), schedule_of(config), clock_of(config))


def as_text(curves: Sequence[Curve]) -> Iterator[str]:
    """Lines of at most 80 columns; all curves have the same scales."""
    top = max(curve.rate(step) for curve in curves for step in curve.steps(MOST_POINTS)) or 1.0
    longest = max(curve.clock.total_steps for curve in curves)
    for curve in curves:
        width = max(1, round(WIDTH * curve.clock.total_steps / longest))
        rates = [curve.rate(step) for step in _columns(curve, width)]
        highest = max(curve.rate(step) for step in curve.steps(MOST_POINTS))
        last = curve.clock.total_steps - 1
        numbers = f"first {digits(curve.rate(0))}, highest {digits(highest)}, last {digits(curve.rate(last))}"
        yield printable(f"{curve.label or 'the run'}: {numbers}"[:80])
        for i, line in enumerate(draw([rate / top for rate in rates] + [1.0], height=HEIGHT)):
            yield f"{digits(top) if i == 0 else '0' if i == HEIGHT - 1 else '':>10}  {line[:-1]}".rstrip()
        epochs = f"{curve.clock.epochs(last + 1):g} ep"
        yield f"{'':10}  {f'{last + 1:,} steps, {epochs}':>{width}}"


def _columns(curve: Curve, width: int) -> list[int]:
    last = curve.clock.total_steps - 1
    return [round(i * last / max(1, width - 1)) for i in range(width)]


def picture(curves: Sequence[Curve], path: Path) -> None:
    """Writes a PNG or an SVG: rates over epochs, and the momentum below where a schedule moves it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    moving = [curve for curve in curves if hasattr(curve.schedule, "momentum")]
    figure = Figure(figsize=(8, 4 if not moving else 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if moving else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if moving else None)
    for curve in curves:
        steps = curve.steps(MOST_POINTS)
        epochs = [curve.clock.epochs(step) for step in steps]
        label = printable(curve.label).replace("$", r"\$")
        (line,) = axes[0, 0].plot(epochs, [curve.rate(step) for step in steps], label=label or None)
        if curve in moving:
            momentum: Any = curve.schedule.momentum  # type: ignore[attr-defined]
            axes[1, 0].plot(epochs, [momentum(step) for step in steps], color=line.get_color())
    axes[0, 0].set(ylabel="learning rate", ylim=(0, None))
    if moving:
        axes[1, 0].set(ylabel="momentum")
    axes[-1, 0].set(xlabel="epoch")
    for ax in axes[:, 0]:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    if any(curve.label for curve in curves):
        axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)
