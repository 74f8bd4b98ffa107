"""What a test changes in the process of a run before it begins: waits, failures and damage at a chosen moment.

Most functions return one that does it, for the `prepare` of `runs.start`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from plainloop.contracts import Batch
from plainloop.data.digits import Digits
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.run_dir.recorder import Recorder


def before(kind: type, method: str, act: Callable[..., Any]) -> None:
    """Calls `act` with the method's arguments each time before it."""
    original = getattr(kind, method)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        act(*args)
        return original(*args, **kwargs)

    setattr(kind, method, wrapper)


def before_updates(act: Callable[[int, Batch], Any]) -> None:
    """Calls `act` with the finished steps and the batch before every update of this process."""
    before(Trainer, "update", lambda self, model, state, batch: act(state.step, batch))


def at_step(step: int, act: Callable[[], Any]) -> Callable[[], None]:
    """Before the update that makes `step` finished ones."""
    return lambda: before_updates(lambda finished, batch: act() if finished + 1 == step else None)


def during(method: str, act: Callable[[], Any], *, kind: type = Trainer) -> Callable[[], None]:
    return lambda: before(kind, method, lambda *_: act())


def send(*numbers: int, group: bool = False) -> Callable[[], None]:
    """Signals to this process, or to all of its group, as Slurm does."""

    def act() -> None:
        for number in numbers:
            (os.killpg if group else os.kill)(os.getpid(), number)

    return act


def fail(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


PARTS: dict[str, Callable[[TrainState], Iterable[torch.Tensor]]] = {
    "weights": lambda state: state.model.parameters(),
    "BatchNorm's statistics": lambda state: (b for b in state.model.buffers() if b.is_floating_point()),
    "average": lambda state: state.ema.model.parameters() if state.ema else (),
    "momentum": lambda state: (entry["momentum_buffer"] for entry in state.optimizer.state.values()),
}


def poisoned(part: str, step: int) -> Callable[[], None]:
    """After that step one number of the part is NaN."""

    def act(self: Any, finished: int) -> None:
        if finished == step:
            *_, tensor = PARTS[part](self.state)
            tensor.data.view(-1)[0] = torch.nan

    return lambda: before(Recorder, "advance", act)


def poisoned_images(step: int) -> Callable[[], None]:
    """The batch of that step has images of NaN."""
    return lambda: before_updates(lambda done, batch: batch["image"].fill_(torch.nan) if done + 1 == step else None)


def failing_data(error: BaseException) -> Callable[[], None]:
    return lambda: before(Digits, "train_batches", lambda *_: fail(error)())


def wait_for(path: Path) -> Callable[[], None]:
    def act() -> None:
        path.with_suffix(".here").touch()
        while not path.exists():
            time.sleep(0.002)

    return act
