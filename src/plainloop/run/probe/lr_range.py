"""The range test: the rate rises from step to step, and the loss shows which rates learn (https://arxiv.org/abs/1506.01186)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.run.probe.parts import Probe, Tell

SMOOTH = 0.9  # share of the mean so far in the next one; a loss of a batch alone is noise
DIVERGED = 2.0  # times the lowest smoothed loss: no higher rate will do better
BELOW = 10  # a tenth of the rate at the lowest loss is still in the slope, as fastai suggests it


@dataclass(frozen=True)
class Curve:
    rates: list[float]
    losses: list[float]
    smooth: list[float]

    @property
    def lowest(self) -> int:
        return min(range(len(self.smooth)), key=self.smooth.__getitem__)

    @property
    def suggestion(self) -> float:
        return float(f"{self.rates[self.lowest] / BELOW:.2g}")

    def problem(self) -> str:
        """Why there is nothing to suggest, with what to type; "" where there is."""
        if max(self.smooth) - self.smooth[self.lowest] < 0.02 * abs(self.smooth[0]):
            return "the loss does not fall at any of these rates: try more steps with --steps, or a higher --high"
        if self.lowest == len(self.rates) - 1:
            return f"the loss still falls at the highest rate: type --high {self.rates[-1] * 100:.0e}"
        if self.rates[self.lowest] / self.rates[0] < BELOW:
            return f"the loss rises from the lowest rate on: type --low {self.rates[0] / 1000:.0e}"
        return ""


def smoothed(losses: Sequence[float], beta: float = SMOOTH) -> list[float]:
    """The moving average at each place, without the pull to zero at the start.

    >>> smoothed([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    """
    total, weight, found = 0.0, 0.0, []
    for loss in losses:
        total, weight = beta * total + (1 - beta) * loss, beta * weight + (1 - beta)
        found.append(round(total / weight, 12))
    return found


def range_test(config: Mapping[str, Any], *, low: float, high: float, steps: int, tell: Tell) -> Curve:
    """Trains for at most `steps` steps, at rates from low to high; ends where the loss has diverged."""
    probe = Probe.of(config)
    rates, losses = list[float](), list[float]()
    for number, batch in enumerate(probe.trainer.data.train_batches(0, steps, probe.trainer.seed)):
        rate = low * (high / low) ** (number / (steps - 1))
        probe.update(batch, rate=rate)
        loss = probe.loss()
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        smooth = smoothed(losses)
        tell(f"step {number + 1}/{steps}, rate {rate:.2e}, loss {smooth[-1]:.4g}")
        if number > steps // 10 and smooth[-1] > DIVERGED * min(smooth):
            break
    return Curve(rates, losses, smoothed(losses))


def write_picture(curve: Curve, path: Path, *, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="0.8", linewidth=1, label="each batch")
    axes.plot(curve.rates, curve.smooth, color="C0", label="smoothed")
    if not curve.problem():
        axes.axvline(curve.suggestion, color="C3", linestyle="--", label=f"suggestion {curve.suggestion:g}")
    top = max(curve.smooth[: curve.lowest + 1], default=1.0)
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axes.set_ylim(min(*curve.losses, *curve.smooth) * 0.9, top * 1.2)
    axes.legend()
    figure.savefig(path, dpi=110)
