"""What a user sees while a run trains: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from plainloop.errors import counted
from plainloop.loggers.numbers import amount, digits, duration, score
from plainloop.loggers.screen import ignore_closed_screen, is_terminal
from plainloop.loggers.terminal import Bar
from plainloop.system.progress import progress_shown_by

log = logging.getLogger("plainloop")

REDRAW_S = 0.25  # a drawing takes about a millisecond
TRAINING = "training"
SILENCE_S = 30.0  # seconds without a line, where there is no bar


class Console:
    """Sends each row as one plain line to the logger "plainloop", whose handlers write to train.log and the screen.

    On a terminal, a bar shows the rows instead, and only the lines of evaluations are printed, above the bar.
    `batch_size` is global; `num_val` is the number of validation samples; `monitor` is the metric to show, without
    its split.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        num_val: int = 0,
        monitor: str = "top1",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._num_val = num_val
        self.monitor = monitor
        self._clock = clock
        self._bar: Bar | None = None
        self._began: tuple[float, int] | None = None
        self._redraw_at = 0.0
        self._line_at = clock()
        self._shown: dict[str, float] = {}
        self._step = 0
        self._evaluation = ("", 0)  # split, batches done
        self._work = ("", 0.0, 0)  # what is being done, when it began, how many were done then
        self._screen = ExitStack()

    def __enter__(self) -> Console:
        ignore_closed_screen()
        self._screen.enter_context(progress_shown_by(self.working))
        if is_terminal():
            self._bar = Bar(self._total)
            atexit.register(self.finish)  # shows the cursor again, however the process ends
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def advance(self, step: int) -> None:
        """To be called after every step: looks at the clock, draws now and then, and never waits for the device."""
        now = self._clock()
        if now < self._redraw_at:
            return
        if self._began is None:
            self._began = now, step  # the first step compiles and warms up; the pace is counted from its end
        self._show(step, TRAINING, now)

    def evaluating(self, split: str, rows: int) -> None:
        """To be called for every batch of an evaluation; `rows` is the number of its samples on all ranks."""
        done = self._evaluation[1] + 1 if self._evaluation[0] == split else 1
        self._evaluation = split, done
        now = self._clock()
        if now >= self._redraw_at:
            total = f"/{max(done, math.ceil(self._num_val / rows))}" if split == "val" and self._num_val else ""
            self._show(self._step, f"evaluating {split} {done}{total}", now)

    def working(self, label: str, done: int, total: int) -> None:
        """To be called by what takes long before or between steps; see `system.progress`."""
        now = self._clock()
        if label != self._work[0]:
            self._work = label, now, done
        _, began, first = self._work
        if now < self._redraw_at and done < total:
            return
        self._redraw_at = now + REDRAW_S
        left = [f"left {duration((total - done) * (now - began) / (done - first))}"] if done > first else []
        if self._bar:
            self._bar.move(done, label, [f"{done}/{total}", *left], total=total)
        elif now - self._line_at >= SILENCE_S:
            self._line_at = now
            log.info("  ".join([f"{label} {done}/{total}", *left]))

    def log(self, step: int, scalars: Mapping[str, float], *, best: bool = False) -> None:
        """`best` marks an evaluation better than all before it."""
        now = self._clock()
        self._evaluation = "", 0
        self._shown |= scalars
        pace = self._pace(step, now)
        left = [f"left {self._left(step, pace)}"] if pace else []
        mark = ["new best"] if best else []
        fields = [self._place(step), *row_fields(scalars, monitor=self.monitor), *left, *mark]
        log.info("  ".join(fields), extra={"row": True})
        self._line_at = now
        if self._bar and any(key.startswith("val/") for key in scalars):
            evaluation = {key: scalars[key] for key in scalars if key.startswith(("epoch", "train/loss", "val/"))}
            fields = [self._place(step), *row_fields(evaluation, monitor=self.monitor), *mark]
            self._bar.keep("  ".join(fields), bold=best)
        self._show(step, TRAINING, now)

    def finish(self) -> None:
        """Removes the bar. May be called twice; it must be called before a failure is printed, which the bar hides."""
        self._screen.close()
        if self._bar:
            self._bar.close()
            self._bar = None
            atexit.unregister(self.finish)

    def _show(self, step: int, label: str, now: float) -> None:
        """Draws the bar; where there is none, logs a line after a long silence."""
        self._redraw_at = now + REDRAW_S
        self._step = step
        pace = self._pace(step, now)
        left = [f"left {self._left(step, pace)}"] if pace else []
        if self._bar:
            shown = self._shown | {"epoch": step / self._steps_per_epoch}
            if pace:
                shown.setdefault("time/images_per_s", pace * self._batch_size)
            fields = [f"{step}/{self._total}", *left, *bar_fields(shown, monitor=self.monitor)]
            self._bar.move(step, label, fields, total=self._total)
        elif now - self._line_at >= SILENCE_S:
            self._line_at = now
            log.info("  ".join([self._place(step), label, *(left if label == TRAINING else ())]))

    def _place(self, step: int) -> str:
        return f"step {step:>{len(str(self._total))}}/{self._total}"

    def _left(self, step: int, pace: float) -> str:
        return duration((self._total - step) / pace)

    def _pace(self, step: int, now: float) -> float | None:
        """Steps per second in this attempt, evaluations and saves included; None before there are two."""
        if self._began is None or step <= self._began[1] or now <= self._began[0]:
            return None
        return (step - self._began[1]) / (now - self._began[0])


def row_fields(scalars: Mapping[str, float], *, monitor: str) -> list[str]:
    """The part of a row that a user watches, in a fixed order.

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
        "time/images_per_s": lambda value: f"{amount(value)} img/s",
    }
    return [form(scalars[key]) for key, form in shown.items() if key in scalars]


def bar_fields(scalars: Mapping[str, float], *, monitor: str) -> list[str]:
    """The same for a bar, the most important first; the accuracy is the validation's once there is one.

    >>> bar_fields({"epoch": 9.1, "train/loss": 0.1234, "train/lr": 0.001, "train/top1": 0.95}, monitor="top1")
    ['loss 0.123', 'top1 0.9500', 'lr 0.0010', 'ep 9.1']
    """
    accuracy = f"val/{monitor}" if f"val/{monitor}" in scalars else f"train/{monitor}"
    order = ("train/loss", accuracy, "time/images_per_s", "train/lr", "epoch")
    one_by_one = [row_fields({key: scalars[key]}, monitor=monitor)[0] for key in order if key in scalars]
    return [field.replace(f"val {monitor}", "val") for field in one_by_one]


def closing_lines(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """How long it took, the best metric, and where the run is: the last lines on the screen.

    >>> best = {"metric": "val/top1", "value": 0.9861, "step": 1700}
    >>> closing_lines({"steps": 1760, "seconds": 18.4, "images_per_s": 12345.0, "best": best}, Path("outputs/digits/1"))
    ['1760 steps in 0:18, 12.3k img/s', 'best val/top1 0.9861 after step 1700', 'run: outputs/digits/1']
    >>> closing_lines({"steps": 88, "seconds": 1, "stopped_early": "no better val/top1 for 3 evaluations"}, Path("a"))[
    ...     1
    ... ]
    'stopped early: no better val/top1 for 3 evaluations'
    """
    steps = summary["steps"]
    lines = [f"{steps} step{'s' * (steps != 1)} in {duration(summary['seconds'])}"]
    if summary.get("images_per_s"):
        lines[0] += f", {amount(summary['images_per_s'])} img/s"
    if summary.get("stopped_early"):
        lines.append(f"stopped early: {summary['stopped_early']}")
    best = summary.get("best")
    if best and best.get("value") is not None:
        lines.append(f"best {best['metric']} {score(best['value'])} after step {best['step']}")
    lines += skipped_lines(**summary.get("bad_images") or {})
    here = Path.cwd()
    return [*lines, f"run: {folder.relative_to(here) if folder.is_relative_to(here) else folder}"]


def skipped_lines(number: int = 0, first: Sequence[str] = ()) -> list[str]:
    """What is wrong with the images that were skipped.

    >>> skipped_lines(2, ["a.png cannot be decoded (why)"])
    ['2 bad images were skipped:', '  a.png cannot be decoded (why)', '  and 1 more in events.jsonl']
    """
    if not number:
        return []
    more = [f"  and {number - len(first)} more in events.jsonl"] if number > len(first) else []
    head = f"{counted(number, 'bad image')} {'was' if number == 1 else 'were'} skipped:"
    return [head, *(f"  {why}" for why in first), *more]
