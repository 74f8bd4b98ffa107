"""From a config to a finished run: builds the parts in order and starts the loop."""

from __future__ import annotations

import functools
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from plainloop.config.build import build_checked, settings
from plainloop.config.durations import Clock, clock_of
from plainloop.config.settings import CheckpointSettings, TrainerSettings
from plainloop.contracts import Task
from plainloop.distributed import collectives, failures, process_group, ranks
from plainloop.loop.normalize import Normalize, to_float
from plainloop.loop.trainer import Trainer
from plainloop.run import backend
from plainloop.run.parts import base_rate, build_data, build_loggers, build_model, build_schedule, build_state
from plainloop.run.resume import take_up
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.journal import Journal, attempt
from plainloop.run_dir.recorder import Recorder, Silent
from plainloop.system.signals import Preemption

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Trains what a checked, resolved config describes; the run's summary on rank 0, nothing on others. Collective.

    A folder that holds the run's checkpoints is continued; only rank 0's `folder` counts. Raises RunError for what a
    person can mend, and Preempted when asked to stop.
    """
    told = config["trainer"]
    backend.prepare(deterministic=told["deterministic"], detect_anomaly=told["detect_anomaly"])
    with process_group.process_group(config["device"], timeout_s=told["timeout_s"]), Preemption() as preemption:
        folder, started = collectives.from_rank_0([str(folder), time.time_ns()])
        folder, rank = Path(folder), collectives.rank()
        notes = ranks.rendezvous_folder() or folder / f"{failures.NOTES_PREFIX}{started}"
        ours = attempt(folder, config["plugins"]) if rank == 0 else nullcontext()
        with (
            failures.recording(notes, rank=rank),
            ours as journal,
            failures.raising_root_cause(notes, journal, rank=rank),
            backend.errors_explained(told["accumulate"]),
            process_group.lost_peers_named(told["timeout_s"]),
        ):
            return train(config, folder, journal, preemption)


def train(config: dict[str, Any], folder: Path, journal: Journal | None, preemption: Preemption) -> dict[str, Any]:
    """Builds the parts in order, takes up what an earlier attempt saved, and trains. Rank 0 has the journal."""
    clock = clock_of(config)
    told = settings(TrainerSettings, config["trainer"], clock)
    make = functools.partial(build_checked, clock=clock, plugins=config["plugins"])
    device = process_group.pick_device(config["device"])
    saving = settings(CheckpointSettings, config["checkpoint"], clock)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=saving.keep_last, save_best=saving.save_best)

    saved = take_up(config, checkpoints, journal)
    if saved:
        config = config | {"init_from": None}  # the checkpoint holds all weights: that file may be gone
    task: Task = make(config["task"])
    data, augment = build_data(config, make)
    model = build_model(config, told, device, make)
    state = build_state(config, told, model, device, make)
    if saved:
        state.load_state_dict(saved, rank=collectives.rank(), world_size=collectives.world_size())

    recorder: Recorder | Silent = Silent(folder)
    if journal:
        recorder = Recorder(config, state, checkpoints, journal, build_loggers(config, make), clock=clock, task=task)
    facts = config["facts"]
    trainer = Trainer(
        task=task,
        data=data,
        augment=augment,
        schedule=build_schedule(config, make),
        prepare=to_float,
        normalize=Normalize(mean=facts["mean"], std=facts["std"], device=device, channels_last=told.channels_last),
        recorder=recorder,
        preemption=preemption,
        device=device,
        seed=config["seed"],
        base_lr=base_rate(config),
        **loop_settings(told, saving, clock),
    )
    with recorder:
        trainer.fit(state, backend.wrap(model, told, device))
    return recorder.summary


def loop_settings(told: TrainerSettings, saving: CheckpointSettings, clock: Clock) -> dict[str, Any]:
    """What the loop is told, in its own terms: steps, seconds, None for never."""
    return {
        "steps": clock.total_steps,
        "steps_per_epoch": clock.steps_per_epoch,
        "precision": PRECISIONS[told.precision],
        "accumulate": told.accumulate,
        "clip_norm": told.clip_norm,
        "clip_value": told.clip_value,
        "clip_agc": told.clip_agc,
        "log_every": told.log_every,
        "eval_every": None if told.eval_every == "never" else told.eval_every,
        "save_every": None if told.save_every == "never" else told.save_every,
        "save_every_s": 60 * saving.every_minutes if saving.every_minutes else None,
        "save_best": saving.save_best,
        "patience": told.early_stop.patience,
        "min_delta": told.early_stop.min_delta,
        "skip_nonfinite": told.on_nonfinite == "skip",
        "max_skips": told.max_skips,
    }
