"""The metrics that decide which evaluation is the best, and when training stops early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from plainloop.errors import BadConfig, NonFinite
from plainloop.loop.state import TrainState


@dataclass(frozen=True)
class Monitor:
    metric: str  # of the validation set, without its split: top1, loss
    mode: Literal["max", "min"]

    def value(self, metrics: Mapping[str, float]) -> float:
        """Raises BadConfig when an evaluation gives no such metric."""
        if self.metric not in metrics:
            raise BadConfig(
                f"checkpoint.monitor or trainer.early_stop.monitor is {self.metric}, which no evaluation gives",
                hint=f"type one of {', '.join(metrics)}",
            )
        return metrics[self.metric]

    def is_better(self, value: float, than: float | None, *, by: float = 0.0) -> bool:
        """Whether a value is better than the best so far by more than `by`. NaN and infinities never are.

        >>> monitor = Monitor("loss", "min")
        >>> monitor.is_better(0.5, None), monitor.is_better(0.5, 0.6), monitor.is_better(0.5, 0.6, by=0.2)
        (True, True, False)
        """
        gain = (value - than if self.mode == "max" else than - value) if than is not None else math.inf
        return math.isfinite(value) and gain > by


def update_best(state: TrainState, metrics: Mapping[str, float], best_by: Monitor) -> bool:
    """Whether this evaluation is the best so far."""
    value = best_by.value(metrics)
    best = best_by.is_better(value, state.best)
    if best:
        state.best, state.best_step = value, state.step
    return best


def count_for_early_stop(
    state: TrainState, metrics: Mapping[str, float], stop_by: Monitor, *, min_delta: float
) -> None:
    """Counts evaluations without gain."""
    value = stop_by.value(metrics)
    gain = stop_by.is_better(value, state.best_for_early_stop, by=min_delta)
    state.best_for_early_stop = value if gain else state.best_for_early_stop
    state.evaluations_without_gain = 0 if gain else state.evaluations_without_gain + 1


def require_any_best(state: TrainState, best_by: Monitor, eval_every: int | None) -> None:
    """Raises NonFinite at the end of a run whose evaluations never gave a number: then no weights are the best."""
    if state.best is None and eval_every is not None:
        count = math.ceil(state.step / eval_every)
        of_all = f"any of the {count} evaluations" if count > 1 else "the one evaluation"
        what = f"val/{best_by.metric} was not a number in {of_all}"
        hint = "look at the task's metric, or type trainer.eval_every=never"
        raise NonFinite(f"{what}: no weights are the best", hint=hint)
