"""Everything that a step changes. Saving this and loading it again is a resume; nothing else is carried along."""

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
        """Takes in the weights after `step` finished optimizer steps. No wait for the device."""
        if self._averaged is None:
            ours, theirs = self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
            pairs = [(ours[name], theirs[name]) for name in ours]
            averaged = [(own, other) for own, other in pairs if own.is_floating_point()]
            self._averaged = ([own.data for own, _ in averaged], [other.data for _, other in averaged])
            self._copied = [(own, other) for own, other in pairs if not own.is_floating_point()]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        for own, other in self._copied:
            own.copy_(other)


class Window:
    """What has been measured since the last log row.

    Values stay where they are until `read`, so adding costs no work on the device. The rows are kept one by one, not
    summed up: a mean taken over them does not depend on where a save or a resume fell.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []  # read already
        self._pending: list[dict[str, Tensor | float]] = []

    def add(self, step: int, share: Tensor | float, scalars: Scalars) -> None:
        """One micro-batch of the step that makes `step` finished ones; `share` of the global batch is in it."""
        self._pending.append({"step": step, "share": share, **scalars})

    def read(self) -> list[dict[str, float]]:
        """Waits for the device once; the rows added since the last reading, now on the host."""
        tensors = [value for row in self._pending for value in row.values() if isinstance(value, Tensor)]
        values = iter(_to_host(tensors))
        fresh = [
            {key: next(values) if isinstance(value, Tensor) else value for key, value in row.items()}
            for row in self._pending
        ]
        self._pending.clear()
        self.rows += fresh
        return fresh

    def clear(self) -> None:
        self.rows.clear()
        self._pending.clear()


def _to_host(tensors: list[Tensor]) -> list[float]:
    """Values of 0-d tensors, in one copy per data type: to convert on the device could round (MPS has no float64)."""
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

    Steps whose update was skipped count for nothing but the share of skipped ones.

    >>> means(
    ...     [
    ...         {"step": 1, "share": 0.25, "loss": 4.0},
    ...         {"step": 1, "share": 0.75, "loss": 0.0},
    ...         {"step": 2, "share": 1.0, "loss": 3.0},
    ...     ]
    ... )
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
    best: float | None = None  # of the task's monitor
    best_step: int | None = None
    milestone: float | None = None  # the value that early stopping compares with
    evaluations_without_gain: int = 0
    window: Window = field(default_factory=Window)

    _COUNTERS = (
        "step",
        "reported",
        "skipped",
        "skipped_in_a_row",
        "best",
        "best_step",
        "milestone",
        "evaluations_without_gain",
    )

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
            **{name: getattr(self, name) for name in self._COUNTERS},
        }

    def load_state_dict(self, saved: dict[str, Any], *, rank: int = 0, world_size: int = 1) -> None:
        """Takes over all of `saved`; rows that more ranks than now have left in the log window are shared out.

        Raises ValueError when a part is missing, unknown or of another shape.
        """
        expected = {"model", "optimizer", "scaler", "ema", "windows", *self._COUNTERS}
        if saved.keys() != expected:
            raise ValueError(
                f"the checkpoint does not hold a run's state: missing {sorted(expected - saved.keys())}, "
                f"unknown {sorted(saved.keys() - expected)}"
            )
        if (saved["ema"] is None) != (self.ema is None):
            raise ValueError("trainer.ema_decay is on in only one of checkpoint and config; set it as it was")
        _load_weights(self.model, saved["model"])
        if self.ema:
            _load_weights(self.ema.model, saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in self._COUNTERS:
            setattr(self, name, saved[name])
        self.window.clear()
        self.window.rows = [dict(row) for window in saved["windows"][rank::world_size] for row in window]

    def finite(self) -> bool:
        """Whether every weight, average and optimizer tensor is a number. Waits for the device."""
        tensors = [*self.model.state_dict().values(), *(self.ema.model.state_dict().values() if self.ema else [])]
        tensors += [value for entry in self.optimizer.state.values() for value in entry.values()]
        numbers = [value for value in tensors if isinstance(value, Tensor) and value.is_floating_point()]
        return bool(torch.stack([value.isfinite().all().to("cpu", non_blocking=False) for value in numbers]).all())


def _load_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(saved, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint holds another model's weights: {error}") from error
