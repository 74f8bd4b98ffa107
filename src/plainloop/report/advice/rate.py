"""Rules about the learning rate and the length of the run, from the curves."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from plainloop.config.durations import parse
from plainloop.loggers.numbers import digits, score
from plainloop.report.advice.evidence import GAP, Advice, Evidence

FEW = 8  # rows or evaluations: with fewer, no curve says anything
EXPLODED = 2.0  # times its first value
SLOW = 0.35  # share of the first loss that has gone by the end: less is slow
STEADY = 0.8  # share of the steps from row to row that go down
STILL_FALLING = 0.05  # share of val/loss that the last quarter of the run took off
WASTED = 0.5  # share of the run after the best evaluation


def rate_too_high(run: Evidence) -> Advice | None:
    """The loss rose far above where it began, or never left it, going up and down."""
    losses, lr = [loss for _, loss in run.series("train/loss")], run.number("optimizer.lr")
    if lr is None or len(losses) < FEW:
        return None
    first, last, top = losses[0], losses[-1], max(losses)
    name = "optimizer.lr"
    if top > EXPLODED * max(first, at_chance(run)):
        evidence = f"train/loss rose from {digits(first)} to {digits(top)} with {name}={lr:g}"
    elif is_cross_entropy(run) and last > (1 - 0.02) * at_chance(run) and not is_steady(losses):
        evidence = (
            f"train/loss is {digits(last)} at the end, as good as chance, and went up and down with {name}={lr:g}"
        )
    else:
        return None
    return Advice("rate too high", evidence, f"{name}={as_number(lr / 10)}")


def rate_too_low(run: Evidence) -> Advice | None:
    """The loss has hardly fallen, and falls steadily."""
    losses, lr = [loss for _, loss in run.series("train/loss")], run.number("optimizer.lr")
    if lr is None or len(losses) < FEW or not run.finished:
        return None
    first, last, early = losses[0], losses[-1], losses[: 2 * len(losses) // 3]  # later, a falling rate ends the fall
    if first <= 0 or not 0 < first - last < SLOW * first or last < at_chance(run) / 2:
        return None
    if not (is_steady(early) and falls_to_the_end(losses)):
        return None
    if run.fit is not None and run.fit.gap > GAP:
        return None
    evidence = f"train/loss fell only from {digits(first)} to {digits(last)}, steadily, with optimizer.lr={lr:g}"
    return Advice("rate too low", evidence, f"optimizer.lr={as_number(10 * lr)}")


def not_yet_flat(run: Evidence) -> Advice | None:
    """Validation still improves at the end: a longer run."""
    losses = run.series("val/loss")
    best = (run.summary.get("best") or {}).get("step")
    if not run.finished or len(losses) < FEW or not isinstance(best, int) or rate_too_low(run) is not None:
        return None
    total = run.clock.total_steps
    before = [loss for step, loss in losses if step <= 0.75 * total]
    if not before or best < 0.9 * total or losses[-1][1] > (1 - STILL_FALLING) * min(before):
        return None
    evidence = f"val/loss fell from {digits(min(before))} to {digits(losses[-1][1])} in the last quarter of the run"
    duration = run.config["trainer"]["duration"]
    amount, unit = parse(duration)
    return Advice("not yet flat", evidence, f"trainer.duration={2 * amount:g}{unit}")


def early_stop(run: Evidence) -> Advice | None:
    """The best evaluation lies far back: stop once nothing improves."""
    values = run.series(f"val/{run.monitor}")
    best = run.summary.get("best")
    step, value = (best.get("step"), best.get("value")) if isinstance(best, dict) else (None, None)
    if not isinstance(step, int) or not isinstance(value, int | float) or len(values) < FEW:
        return None
    if not run.finished or run.number("trainer.early_stop.patience") is not None:
        return None
    total, after = run.clock.total_steps, sum(one > step for one, _ in values)
    if step > (1 - WASTED) * total or after < FEW // 2:
        return None
    evidence = (
        f"val/{run.monitor} was best after step {step:,} of {total:,}, {score(value)}, "
        f"and {score(values[-1][1])} at the end, {after} evaluations later"
    )
    return Advice("early stop", evidence, f"trainer.early_stop.patience={max(3, after // 2)}")


def is_cross_entropy(run: Evidence) -> bool:
    """Whether the loss has the scale of `at_chance`, as far as the task's keys tell."""
    return run.has("task.label_smoothing")


def at_chance(run: Evidence) -> float:
    """The cross entropy of a guess: what the loss is at least before anything is learned.

    The loss of many tasks is another one, and begins higher.
    """
    return math.log(max(2, len(run.config["facts"]["class_names"])))


def is_steady(losses: Sequence[float]) -> bool:
    """Whether most rows are lower than the one before.

    >>> is_steady([2.3, 2.2, 2.1, 2.0, 1.9, 1.8]), is_steady([2.3, 2.4, 2.3, 2.4, 2.3, 2.4])
    (True, False)
    """
    down = [after < before for before, after in itertools.pairwise(losses)]
    return sum(down) >= STEADY * len(down)


def falls_to_the_end(losses: Sequence[float]) -> bool:
    """Whether each quarter of the rows is lower in the mean than the one before, and the last row than the third.

    >>> falls_to_the_end([2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7, 1.8]), falls_to_the_end([2.3, 2.2, 2.1, 2, 1.9, 1.8, 1, 2])
    (True, False)
    """
    cuts = [i * len(losses) // 4 for i in range(5)]
    quarters = [statistics.fmean(losses[start:stop]) for start, stop in itertools.pairwise(cuts)]
    return all(after < before for before, after in itertools.pairwise(quarters)) and losses[-1] < quarters[2]


def as_number(value: float) -> str:
    """
    >>> as_number(0.1 / 10), as_number(1e-5 * 10)
    ('0.01', '0.0001')
    """
    return f"{value:.2g}"
