"""Learning-rate schedules: pure functions from finished optimizer steps to a multiplier of the base rate.

Every length is in optimizer steps. `base_lr` is the rate that the optimizer was given, after `trainer.lr_scaling`:
rates that are absolute in YAML (`warmup_start_lr`, `min_lr`, `values`) are divided by it and come out as written.

The warm-up is linear: `warmup_start_lr` at step 0, the schedule's own value at step `warmup`. `multistep` and `step`
count their decays from the start of the run, warm-up included; all others begin where it ends. `every` holds a
value for so many steps, counted from the start of the run: `1ep` is the by-epoch decay of older code. From
`total_steps` on the last value holds. Lengths and rates are checked once, with the configuration, and trusted here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plainloop.contracts import Steps

NO_STEPS = Steps(0)
EACH_STEP = Steps(1)


def constant(
    step: int,
    *,
    total_steps: Steps,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Stays at the base rate after the warm-up.

    >>> [constant(step, total_steps=8, warmup=4) for step in (0, 1, 4, 100)]
    [0.0, 0.25, 1.0, 1.0]
    """
    return _rise(step, warmup, warmup_start_lr / base_lr, 1.0) if step < warmup else 1.0


def multistep(
    step: int,
    *,
    total_steps: Steps,
    milestones: Sequence[Steps],
    gamma: float = 0.1,
    values: Sequence[float] | None = None,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Multiplies the rate by `gamma` at each milestone, or takes the next of `values`.

    Args:
        milestones: steps from the start of the run; the new rate holds from that step on.
        values: absolute rates, one more than milestones; None decays by `gamma`.

    >>> [multistep(step, total_steps=90, milestones=[30, 60], gamma=0.5) for step in (0, 29, 30, 60, 1000)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    >>> [multistep(step, total_steps=9, milestones=[3, 6], values=[4, 2, 1], base_lr=4) for step in (2, 3, 6, 10)]
    [1.0, 0.5, 0.25, 0.25]
    """
    first = 1.0 if values is None else values[0] / base_lr
    if step < warmup:
        return _rise(step, warmup, warmup_start_lr / base_lr, first)
    step = min(step, total_steps)
    passed = sum(milestone <= step for milestone in milestones)
    return gamma**passed if values is None else values[passed] / base_lr


def step(
    step: int,
    *,
    total_steps: Steps,
    step_size: Steps,
    gamma: float = 0.1,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Multiplies the rate by `gamma` every `step_size` steps, counted from the start of the run.

    >>> from plainloop import schedule
    >>> [schedule.step(step, total_steps=90, step_size=30, gamma=0.5) for step in (0, 29, 30, 89, 90, 1000)]
    [1.0, 1.0, 0.5, 0.25, 0.125, 0.125]
    """
    if step < warmup:
        return _rise(step, warmup, warmup_start_lr / base_lr, 1.0)
    return gamma ** (min(step, total_steps) // step_size)


def exponential(
    step: int,
    *,
    total_steps: Steps,
    gamma: float,
    every: Steps = EACH_STEP,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Multiplies the rate by `gamma` every `every` steps after the warm-up.

    >>> [exponential(step, total_steps=8, gamma=0.5, every=2) for step in (0, 1, 2, 7, 8, 1000)]
    [1.0, 1.0, 0.5, 0.125, 0.0625, 0.0625]
    """
    if step < warmup:
        return _rise(step, warmup, warmup_start_lr / base_lr, 1.0)
    return gamma ** (min(step, total_steps) // every - warmup // every)


def polynomial(
    step: int,
    *,
    total_steps: Steps,
    power: float = 0.9,
    min_lr: float = 0.0,
    every: Steps = EACH_STEP,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Falls from the base rate to `min_lr` as (1 - progress) ** power, the "poly" of segmentation and detection code.

    >>> [polynomial(step, total_steps=8, power=2.0) for step in (0, 4, 7, 8, 1000)]
    [1.0, 0.25, 0.015625, 0.0, 0.0]
    """
    if step < warmup:
        return _rise(step, warmup, warmup_start_lr / base_lr, 1.0)
    lowest = min_lr / base_lr
    return lowest + (1.0 - lowest) * (1.0 - _progress(step, warmup, total_steps, every)) ** power


def linear(
    step: int,
    *,
    total_steps: Steps,
    min_lr: float = 0.0,
    every: Steps = EACH_STEP,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Falls in a straight line from the base rate to `min_lr`.

    >>> [linear(step, total_steps=8, min_lr=0.25, base_lr=0.5) for step in (0, 4, 8, 1000)]
    [1.0, 0.75, 0.5, 0.5]
    """
    if step < warmup:
        return _rise(step, warmup, warmup_start_lr / base_lr, 1.0)
    lowest = min_lr / base_lr
    return lowest + (1.0 - lowest) * (1.0 - _progress(step, warmup, total_steps, every))


def cosine(
    step: int,
    *,
    total_steps: Steps,
    min_lr: float = 0.0,
    every: Steps = EACH_STEP,
    warmup: Steps = NO_STEPS,
    warmup_start_lr: float = 0.0,
    base_lr: float = 1.0,
) -> float:
    """Falls along half a cosine from the base rate to `min_lr` (https://arxiv.org/abs/1608.03983, without restarts).

    >>> [cosine(step, total_steps=12, warmup=4) for step in (0, 2, 4, 8, 12, 1000)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    if step < warmup:
        return _rise(step, warmup, warmup_start_lr / base_lr, 1.0)
    lowest = min_lr / base_lr
    return lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * _progress(step, warmup, total_steps, every)))


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Rises to the base rate and falls almost to 0; momentum does the opposite (https://arxiv.org/abs/1708.07120).

    The base rate is the peak. Numbers and names are those of torch.optim.lr_scheduler.OneCycleLR.

    Args:
        pct_start: share of the run in (0, 1) that the rise takes; with `three_phase` below 0.5.
        div_factor: peak / first rate.
        final_div_factor: first rate / last rate.
        three_phase: falls to the first rate in as many steps as it rose, then to the last rate.

    >>> schedule = OneCycle(total_steps=12, pct_start=0.5, div_factor=4, final_div_factor=2)
    >>> [schedule(step) for step in (0, 5, 11, 1000)]
    [0.25, 1.0, 0.125, 0.125]
    """

    total_steps: Steps
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        highest = 0.5 if self.three_phase else 1.0
        if not 0.0 < self.pct_start < highest:
            raise ValueError(f"scheduler.pct_start={self.pct_start} must lie between 0 and {highest}, both excluded")

    def __call__(self, step: int) -> float:
        first = 1.0 / self.div_factor
        last = first / self.final_div_factor
        return self._between((first, 1.0, first, last) if self.three_phase else (first, 1.0, last), step)

    def momentum(self, step: int) -> float | None:
        """Momentum, or the first beta of an Adam, of the next update; None leaves it to the optimizer."""
        if not self.cycle_momentum:
            return None
        low, high = self.base_momentum, self.max_momentum
        return self._between((high, low, high, high) if self.three_phase else (high, low, high), step)

    def _between(self, corners: Sequence[float], step: int) -> float:
        """The value at `step` of a curve through the corners, which lie at torch's phase ends."""
        rise = max(self.pct_start * self.total_steps - 1, 0.0)  # of one step or less: the peak is the first step
        ends = (rise, 2 * rise, self.total_steps - 1) if self.three_phase else (rise, self.total_steps - 1)
        step = min(step, self.total_steps - 1)
        start = 0.0
        for end, left, right in zip(ends, corners, corners[1:]):
            if step <= end:
                share = (step - start) / (end - start) if end > start else 1.0
                if self.anneal_strategy == "cos":
                    share = 0.5 * (1.0 - math.cos(math.pi * share))
                return right + (left - right) * (1.0 - share)
            start = end
        return corners[-1]


@dataclass(frozen=True, kw_only=True)
class Cyclic:
    """Rises and falls between `min_lr` and the base rate; momentum does the opposite (https://arxiv.org/abs/1506.01186).

    Numbers and names are those of torch.optim.lr_scheduler.CyclicLR, but that its `max_lr` is our base rate and its
    `base_lr` our `min_lr`.

    Args:
        min_lr: absolute rate at the foot of each cycle.
        step_size_up: steps of a rise.
        step_size_down: steps of a fall; None is as many as of a rise.
        mode: "triangular" keeps the height, "triangular2" halves it each cycle, "exp_range" times `gamma` each step.

    >>> schedule = Cyclic(total_steps=100, step_size_up=4, min_lr=0.5, base_lr=1.0)
    >>> [schedule(step) for step in (0, 2, 4, 6, 8, 12)]
    [0.5, 0.75, 1.0, 0.75, 0.5, 1.0]
    """

    total_steps: Steps
    step_size_up: Steps
    step_size_down: Steps | None = None
    min_lr: float = 0.0
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: float = 1.0
    cycle_momentum: bool = True
    base_momentum: float = 0.8
    max_momentum: float = 0.9
    base_lr: float = 1.0

    def __call__(self, step: int) -> float:
        lowest = self.min_lr / self.base_lr
        return lowest + (1.0 - lowest) * self._height(step)

    def momentum(self, step: int) -> float | None:
        """Momentum, or the first beta of an Adam, of the next update; None leaves it to the optimizer."""
        if not self.cycle_momentum:
            return None
        return self.max_momentum - (self.max_momentum - self.base_momentum) * self._height(step)

    def _height(self, step: int) -> float:
        """0 at the lowest point of a cycle, 1 at the highest; later cycles are lower if `mode` says so."""
        step = min(step, self.total_steps)
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        cycle, position = divmod(step, up + down)
        height = position / up if position <= up else (up + down - position) / down
        if self.mode == "triangular2":
            return height / 2.0**cycle
        return height * self.gamma**step if self.mode == "exp_range" else height


def _rise(position: float, length: float, start: float, end: float) -> float:
    """From `start` at 0 to `end` at `length`, in a straight line."""
    return start + (end - start) * position / length


def _progress(step: int, warmup: int, total_steps: int, every: int) -> float:
    """The share of the steps after the warm-up that is done; 0 to 1."""
    step = min(step, total_steps)
    held = max(step - step % every, warmup)
    return (held - warmup) / max(total_steps - warmup, 1)  # a warm-up as long as the run leaves nothing to divide
