"""Everything that a step changes. A resume loads this and nothing else."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from plainloop.contracts import Scalars
from plainloop.models.freeze import Frozen

# Saved counters: name in a checkpoint -> attribute of TrainState.
COUNTERS = {name: name for name in ("step", "reported", "skipped", "skipped_in_a_row", "best", "best_step")} | {
    "milestone": "best_for_early_stop",
    "evaluations_without_gain": "evaluations_without_gain",
}


class EMA:
    """Exponential moving average of a model: parameters and floating-point buffers are averaged, integer ones copied.

    The decay warms up as min(decay, (1 + step) / (10 + step)), so that the average forgets the initial weights soon
    (as in TensorFlow's ExponentialMovingAverage with `num_updates`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged: tuple[list[Tensor], list[Tensor]] | None = None
        self._copied: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Averages the weights after `step` finished optimizer steps. No wait for the device."""
        if self._averaged is None:
            states = (self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True))
            own, other = ([value.data for value in state.values() if value.is_floating_point()] for state in states)
            self._averaged = own, other
            integers = ([value for value in state.values() if not value.is_floating_point()] for state in states)
            self._copied = list(zip(*integers, strict=True))
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        for mine, theirs in self._copied:
            mine.copy_(theirs)


class Window:
    """What has been measured since the last log row.

    Values stay on the device until `read`, so adding costs nothing. Rows are kept one by one, not summed, so that
    their mean does not depend on where a save or a resume fell.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []  # read already
        self._pending: list[dict[str, Tensor | float]] = []

    def add(self, step: int, share: Tensor | float, scalars: Scalars) -> None:
        """Adds a micro-batch of the update that finishes step `step`; it is `share` of the global batch."""
        self._pending.append({"step": step, "share": share, **scalars})

    def read(self) -> list[dict[str, float]]:
        """Waits for the device once; the rows added since the last reading, now on the host."""
        tensors = [value for row in self._pending for value in row.values() if isinstance(value, Tensor)]
        values = iter(_to_host(tensors))
        read = lambda value: next(values) if isinstance(value, Tensor) else value  # noqa: E731
        fresh = [{key: read(value) for key, value in row.items()} for row in self._pending]
        self._pending.clear()
        self.rows += fresh
        return fresh

    def clear(self) -> None:
        self.rows.clear()
        self._pending.clear()


def _to_host(tensors: list[Tensor]) -> list[float]:
    """Values of 0-d tensors, in one copy per data type: converting on the device could round (MPS has no float64)."""
    positions: dict[torch.dtype, list[int]] = {}
    for position, tensor in enumerate(tensors):
        positions.setdefault(tensor.dtype, []).append(position)
    values = [0.0] * len(tensors)
    for places in positions.values():
        for place, value in zip(places, torch.stack([tensors[i] for i in places]).tolist(), strict=True):
            values[place] = float(value)
    return values


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean over steps of each step's mean over ranks and micro-batches, weighted by their share of the batch.

    A skipped step counts only in "skipped", the share of skipped steps.

    >>> step_1 = [{"step": 1, "share": 0.25, "loss": 4.0}, {"step": 1, "share": 0.75, "loss": 0.0}]
    >>> means([*step_1, {"step": 2, "share": 1.0, "loss": 3.0}])
    {'loss': 2.0}
    """
    totals: dict[str, dict[float, list[tuple[float, float]]]] = {}
    skipped = {row["step"] for row in rows if row.get("skipped")}
    for row in rows:
        for key in {"skipped"} & row.keys() if row["step"] in skipped else row.keys() - {"step", "share"}:
            totals.setdefault(key, {}).setdefault(row["step"], []).append((row["share"], row[key]))
    return {
        key: math.fsum(_weighted(parts) for parts in steps.values()) / len(steps)
        for key, steps in sorted(totals.items())
    }


def _weighted(parts: list[tuple[float, float]]) -> float:
    if len(parts) == 1:
        return parts[0][1]
    return sum(share * value for share, value in parts) / sum(share for share, _ in parts)


@dataclass
class TrainState:
    """The state of a run between two steps."""

    model: nn.Module  # plain: never its DDP or compiled wrapper
    optimizer: Optimizer
    scaler: GradScaler
    ema: EMA | None = None
    step: int = 0  # finished optimizer steps; one that was skipped for a non-finite gradient counts
    reported: int = 0  # the last step whose row, evaluation and save were complete
    skipped: int = 0  # updates left out because of non-finite gradients
    skipped_in_a_row: int = 0
    best: float | None = None  # value of the monitored metric
    best_step: int | None = None
    best_for_early_stop: float | None = None  # the value that early stopping compares with
    evaluations_without_gain: int = 0
    window: Window = field(default_factory=Window)

    frozen: Frozen | None = None  # what does not learn yet; follows from the config and the step, not saved
    stopped_early: str = ""  # why training ended before its last step; follows from the rest, not saved

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and exported: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def state_dict(self, windows: list[list[dict[str, float]]] | None = None) -> dict[str, Any]:
        """Tensors and plain Python only. `windows` are all ranks' rows of the open log window, rank 0's first."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "windows": [self.window.rows] if windows is None else windows,
            **{name: getattr(self, attribute) for name, attribute in COUNTERS.items()},
        }

    def load_state_dict(self, saved: dict[str, Any], *, rank: int = 0, world_size: int = 1) -> None:
        """Loads all of `saved`; the rows of the log window are divided among the ranks that there are now.

        Raises ValueError when a part is missing, unknown or of another shape.
        """
        expected = {"model", "optimizer", "scaler", "ema", "windows", *COUNTERS}
        if saved.keys() != expected:
            missing, unknown = sorted(expected - saved.keys()), sorted(saved.keys() - expected)
            raise ValueError(f"the checkpoint holds no run's state: missing {missing}, unknown {unknown}")
        if (saved["ema"] is None) != (self.ema is None):
            raise ValueError("trainer.ema_decay is on in only one of checkpoint and config; set it as it was")
        _load_weights(self.model, saved["model"])
        if self.ema:
            _load_weights(self.ema.model, saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name, attribute in COUNTERS.items():
            setattr(self, attribute, saved[name])
        self.window.clear()
        self.window.rows = [dict(row) for window in saved["windows"][rank::world_size] for row in window]

    def finite(self) -> bool:
        """Whether every weight, average and optimizer tensor is finite. Waits for the device once."""
        tensors = [*self.model.state_dict().values(), *(self.ema.model.state_dict().values() if self.ema else [])]
        tensors += [value for entry in self.optimizer.state.values() for value in entry.values()]
        numbers = [value for value in tensors if isinstance(value, Tensor) and value.is_floating_point()]
        device = numbers[0].device  # some optimizers keep their step counts on the host
        return bool(torch.stack([value.isfinite().all().to(device, non_blocking=True) for value in numbers]).all())


def _load_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(saved, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint holds another model's weights: {error}") from error
