"""The parts of a run, built by its own functions, to try its training step without training: nothing is written."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plainloop.config.build import settings
from plainloop.config.device_choices import with_choices
from plainloop.config.durations import clock_of
from plainloop.config.parts import build_model, build_state, make_part
from plainloop.config.settings import TrainerSettings
from plainloop.contracts import Batch
from plainloop.distributed import process_group
from plainloop.loop.augmented import augmented
from plainloop.loop.optim import set_rate
from plainloop.loop.state import TrainState, means
from plainloop.loop.trainer import Trainer
from plainloop.run import backend
from plainloop.run.run import build_task, build_trainer, num_threads
from plainloop.run_dir.recorder import Silent
from plainloop.system.signals import Preemption

NOWHERE = Path("no-run-directory")


@dataclass
class Probe:
    """A run before its first step, on one process. All learns that learns in the end: trainer.freeze_until is over."""

    trainer: Trainer
    state: TrainState
    model: nn.Module  # what runs the forward pass

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Probe:
        """Takes a checked config."""
        config, _ = with_choices(config, 1)
        clock = clock_of(config)
        args = settings(TrainerSettings, config["trainer"], clock)
        switches = ("deterministic", "detect_anomaly", "cudnn_benchmark", "tf32")
        backend.prepare(**{key: config["trainer"][key] for key in switches})
        make = functools.partial(make_part, config, clock)
        device = process_group.pick_device(config["device"])
        torch.set_num_threads(num_threads(config, NOWHERE))
        model = build_model(config, args, device, make)
        state = build_state(config, args, model, device, make)
        made: dict[str, Any] = {"recorder": Silent(NOWHERE), "preemption": Preemption()}
        trainer, wrapped = build_trainer(config, state, build_task(config, make, device), **made)
        if trainer.thaw and state.frozen and state.frozen.until is not None:
            wrapped = trainer.thaw(state)  # then a step takes most memory and time
        wrapped.train()
        return cls(trainer, state, wrapped)

    def with_largest_images(self) -> Probe:
        """The same, with images as large at every step as augmentations can make them: they decide about memory."""
        augment = [one.largest() if hasattr(one, "largest") else one for one in self.trainer.augment]
        return replace(self, trainer=replace(self.trainer, augment=augment))

    def update(self, batch: Batch, *, rate: float | None = None) -> None:
        """The next training step on a batch as data give it; at another rate than the schedule's if one is given."""
        trainer, state = self.trainer, self.state
        set_rate(state.optimizer, trainer.schedule(state.step) if rate is None else rate / trainer.base_lr)
        draws: Any = {
            "seed": trainer.seed,
            "device": trainer.device,
            "torch_draws_alone": trainer.torch_draws_alone,
        }
        batch = augmented(batch, state.step, prepare=trainer.prepare, augment=trainer.augment, **draws)
        trainer.update(self.model, state, trainer.normalize(batch))
        state.step += 1

    def loss(self) -> float:
        """The training loss of the steps since the last call. Waits for the device."""
        loss = means(self.state.window.read())["loss"]
        self.state.window.clear()
        return loss

    def batch(self) -> Batch:
        """The first batch of the run."""
        return next(iter(self.trainer.data.train_batches(0, 1, self.trainer.seed)))

    def images_per_s(self, batch: Batch, *, for_s: float = 1.0) -> float:
        """Images that training steps on this batch take in a second; loading is not counted."""
        steps = 0

        def step() -> None:
            self.update(batch)
            self.state.window.clear()

        for _ in range(2):  # the first steps reserve memory and choose kernels
            step()
        self.wait()
        began = time.perf_counter()
        while steps < 3 or time.perf_counter() - began < for_s:
            step()
            self.wait()
            steps += 1
        return steps * len(batch["index"]) / (time.perf_counter() - began)

    def wait(self) -> None:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)


def tiled(batch: Batch, size: int) -> Batch:
    """A batch of `size` samples, which repeat those of this one."""
    rows = torch.arange(size) % len(batch["index"])
    return {name: tensor[rows.to(tensor.device)] for name, tensor in batch.items()}


Tell = Callable[[str], None]  # takes a line of progress
