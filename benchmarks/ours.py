"""Our loop for the comparison: the parts of a real run, with a recorder that writes nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from plainloop.config.build import settings
from plainloop.config.check.check import check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.device_choices import with_choices
from plainloop.config.durations import clock_of
from plainloop.config.parts import build_model, build_state, make_part
from plainloop.config.settings import TrainerSettings
from plainloop.distributed import process_group
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.run import backend
from plainloop.run.run import build_trainer
from plainloop.run_dir.recorder import Silent
from plainloop.system.signals import Preemption

ROOT = Path(__file__).resolve().parent.parent
# Only training steps are compared, so there are no evaluations and saves; more steps than any benchmark takes.
TRAINING_ALONE = ("trainer.duration=100000000st", "trainer.eval_every=never", "trainer.save_every=never")


@dataclass
class Ours:
    trainer: Trainer
    state: TrainState
    model: nn.Module  # what runs the forward pass
    config: dict[str, Any]

    def train(self, steps: int) -> None:
        """Trains `steps` more steps, as a resumed run would."""
        replace(self.trainer, steps=self.state.step + steps).fit(self.state, self.model)


def ours(overrides: Sequence[str], *, model: nn.Module | None = None) -> Ours:
    """The loop of `python train.py <overrides>`, with `model` instead of the config's model if it is given.

    Raises ValueError for wrong overrides.
    """
    overrides = (*TRAINING_ALONE, *overrides)
    composer = Composer(ROOT / "conf")
    composed = composer.compose_or_explain(overrides)
    if composed.config is None:
        raise ValueError(composed.problems)
    config = check(composed.config, origin=Origin(overrides, composer=composer), known=composed.problems).config
    config, _ = with_choices(config, 1)
    clock = clock_of(config)
    args = settings(TrainerSettings, config["trainer"], clock)
    make = functools.partial(make_part, config, clock)
    device = process_group.pick_device(config["device"])
    backend.prepare(
        deterministic=args.deterministic, detect_anomaly=args.detect_anomaly, cudnn_benchmark="auto", tf32=args.tf32
    )
    model = build_model(config, args, device, make) if model is None else model.to(device)
    state = build_state(config, args, model, device, make)
    silent = {"recorder": Silent(Path()), "preemption": Preemption()}
    trainer, wrapped = build_trainer(config, state, make("task"), **silent)
    return Ours(trainer, state, wrapped, config)


def means(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config["facts"][name] for name in ("mean", "std")}
