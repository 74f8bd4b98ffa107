"""What a person sees while a run trains: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plainloop.loggers.numbers import digits, duration, score, speed
from plainloop.loggers.terminal import Bar, is_terminal

log = logging.getLogger("plainloop")

REDRAW_S = 0.25  # a drawing takes about a millisecond


class Console:
    """Sends every row to the logger "plainloop" as one plain line; its handlers write to train.log and standard output.

    Where standard output is a terminal, a bar shows the rows there instead, and the lines of evaluations stay above it.
    `batch_size` is global; `monitor` is the metric, without its split, that decides the best checkpoint.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        monitor: str = "top1",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._monitor = monitor
        self._clock = clock
        self._bar: Bar | None = None
        self._began: tuple[float, int] | None = None
        self._redraw_at = 0.0
        self._shown: dict[str, float] = {}

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        if is_terminal():
            self._bar = Bar(self._total, step)
            atexit.register(self.finish, {})  # whatever ends the process, the cursor comes back

    def advance(self, step: int) -> None:
        """To be called after every step: looks at the clock, draws now and then, and never waits for the device."""
        now = self._clock()
        if now < self._redraw_at:
            return
        self._redraw_at = now + REDRAW_S
        if self._began is None:
            self._began = now, step  # the first step compiles and warms up; the pace is counted from its end
        self._draw(step, now)

    def log(self, step: int, scalars: Mapping[str, float], *, best: bool = False) -> None:
        """`best` marks an evaluation better than all before it."""
        now = self._clock()
        self._shown |= scalars
        place = f"step {step:>{len(str(self._total))}}/{self._total}"
        pace = self._pace(step, now)
        left = [f"left {self._left(step, pace)}"] if pace else []
        mark = ["new best"] if best else []
        log.info("  ".join([place, *row_fields(scalars, monitor=self._monitor), *left, *mark]), extra={"row": True})
        if self._bar and any(key.startswith("val/") for key in scalars):
            evaluation = {key: scalars[key] for key in scalars if key.startswith(("epoch", "train/loss", "val/"))}
            self._bar.keep("  ".join([place, *row_fields(evaluation, monitor=self._monitor), *mark]), bold=best)
        self._draw(step, now)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Takes the bar away. May be called twice, and before a failure is reported, or the bar hides the message."""
        if self._bar:
            self._bar.close()
            self._bar = None
            atexit.unregister(self.finish)

    def _draw(self, step: int, now: float) -> None:
        if not self._bar:
            return
        pace = self._pace(step, now)
        shown = self._shown | {"epoch": step / self._steps_per_epoch}
        if pace:
            shown.setdefault("time/images_per_s", pace * self._batch_size)
        left = [f"left {self._left(step, pace)}"] if pace else []
        self._bar.move(step, [f"{step}/{self._total}", *left, *bar_fields(shown, monitor=self._monitor)])

    def _left(self, step: int, pace: float) -> str:
        return duration((self._total - step) / pace)

    def _pace(self, step: int, now: float) -> float | None:
        """Steps per second in this attempt, evaluations and saves included; None before there are two."""
        if self._began is None or step <= self._began[1] or now <= self._began[0]:
            return None
        return (step - self._began[1]) / (now - self._began[0])


def row_fields(scalars: Mapping[str, float], *, monitor: str) -> list[str]:
    """What of a row a person follows, in a fixed order.

    >>> row = {"epoch": 9.1, "train/loss": 0.1234, "train/lr": 0.001, "val/top1": 0.981, "time/images_per_s": 12345.0}
    >>> "  ".join(row_fields(row, monitor="top1"))
    'ep 9.1  loss 0.123  val top1 0.9810  lr 0.0010  12.3k img/s'
    """
    shown: dict[str, Callable[[float], str]] = {
        "epoch": lambda value: f"ep {value:.1f}",
        "train/loss": lambda value: f"loss {digits(value)}",
        f"train/{monitor}": lambda value: f"{monitor} {score(value)}",
        "val/loss": lambda value: f"val loss {digits(value)}",
        f"val/{monitor}": lambda value: f"val {monitor} {score(value)}",
        "train/lr": lambda value: f"lr {digits(value, num=2)}",
        "time/images_per_s": lambda value: f"{speed(value)} img/s",
    }
    return [form(scalars[key]) for key, form in shown.items() if key in scalars]


def bar_fields(scalars: Mapping[str, float], *, monitor: str) -> list[str]:
    """The same for a bar, the most important first; the accuracy is the validation's once there is one.

    >>> bar_fields({"epoch": 9.1, "train/loss": 0.1234, "train/lr": 0.001, "train/top1": 0.95}, monitor="top1")
    ['loss 0.123', 'top1 0.9500', 'lr 0.0010', 'ep 9.1']
    """
    accuracy = f"val/{monitor}" if f"val/{monitor}" in scalars else f"train/{monitor}"
    order = ("train/loss", accuracy, "train/lr", "time/images_per_s", "epoch")
    one_by_one = [row_fields({key: scalars[key]}, monitor=monitor)[0] for key in order if key in scalars]
    return [field.replace(f"val {monitor}", "val") for field in one_by_one]


def closing_lines(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """How long it took, the best metric, and where the run is: the last lines on the screen.

    >>> best = {"metric": "val/top1", "value": 0.9861, "step": 1700}
    >>> closing_lines({"steps": 1760, "seconds": 18.4, "images_per_s": 12345.0, "best": best}, Path("outputs/digits/1"))
    ['1760 steps in 0:18, 12.3k img/s', 'best val/top1 0.9861 after step 1700', 'run: outputs/digits/1']
    """
    lines = [f"{summary['steps']} steps in {duration(summary['seconds'])}"]
    if summary.get("images_per_s"):
        lines[0] += f", {speed(summary['images_per_s'])} img/s"
    best = summary.get("best")
    if best and best.get("value") is not None:
        lines.append(f"best {best['metric']} {score(best['value'])} after step {best['step']}")
    here = Path.cwd()
    return [*lines, f"run: {folder.relative_to(here) if folder.is_relative_to(here) else folder}"]
