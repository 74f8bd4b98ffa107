"""From a config to a finished run: builds the parts in order and starts the loop."""

from __future__ import annotations

import functools
import json
import logging
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plainloop.config.build import settings
from plainloop.config.check.meta_model import model_summary
from plainloop.config.device_choices import with_choices
from plainloop.config.durations import clock_of, train_batch_size
from plainloop.config.parts import (
    Make,
    base_lr_of,
    build_data,
    build_loggers,
    build_model,
    build_schedule,
    build_state,
    make_part,
)
from plainloop.config.settings import CheckpointSettings, TrainerSettings
from plainloop.config.starting_weights import start_lines
from plainloop.contracts import Task
from plainloop.distributed import collectives, failures, process_group, ranks
from plainloop.loggers.console import Console
from plainloop.loop.monitor import Monitor
from plainloop.loop.normalize import Normalize, to_float
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.run import backend
from plainloop.run.description import describe, timm_config
from plainloop.run.header import device_line, run_lines
from plainloop.run.resume import take_up
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.journal import Journal, attempt
from plainloop.run_dir.recorder import Recorder, Silent
from plainloop.run_dir.status import command_to_continue
from plainloop.system import storage
from plainloop.system.processes import cpus_per_rank
from plainloop.system.signals import Preemption

log = logging.getLogger("plainloop")

SAME_NAMES = ("accumulate", "clip_norm", "clip_value", "clip_agc", "log_every", "max_skips")  # in config and loop
MACS_PER_THREAD = 2_000_000  # of one image; with less to do, threads mostly wait for one another
DRAW_FROM_TORCH = ("plainloop.", "timm.create_model", "torch.", "torchvision.models.", "torchvision.transforms.v2.")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Trains what a checked, resolved config describes; the run's summary on rank 0, nothing on others. Collective.

    A folder that holds the run's checkpoints is continued; only rank 0's `folder` counts. Raises RunError for what a
    person can mend, and Preempted when asked to stop.
    """
    timeout_s = config["trainer"]["timeout_s"]
    with process_group.process_group(config["device"], timeout_s=timeout_s), Preemption() as preemption:
        config, chosen = with_choices(config, collectives.world_size())
        args = config["trainer"]
        backend.prepare(**{key: args[key] for key in ("deterministic", "detect_anomaly", "cudnn_benchmark", "tf32")})
        folder, started = share_folder(folder)
        rank, num_ranks = collectives.rank(), collectives.world_size()
        notes = ranks.rendezvous_folder() or folder / f"{failures.NOTES_PREFIX}{started}"
        command = lambda override: command_to_continue(folder, overrides=[override], plugins=config["plugins"])  # noqa: E731
        rank_batch = train_batch_size(config) // num_ranks
        with (
            failures.recording(notes, rank=rank),
            attempt(folder, config["plugins"]) if rank == 0 else nullcontext() as journal,
            root_cause_in_journal(notes, journal),
            backend.errors_explained(accumulate=args["accumulate"], rank_batch=rank_batch, command=command),
            process_group.lost_peers_named(timeout_s),
            console_of(config) if rank == 0 else nullcontext() as console,
        ):
            if console and chosen:
                log.info(f"chosen  {chosen}")
            return train(config, folder, journal, console, preemption)


def share_folder(folder: Path | None) -> tuple[Path, int]:
    """Rank 0's folder, and the time at which it started, on every rank. Collective.

    Absolute where there are several ranks: a launcher may have started them in different working directories.
    """
    if collectives.world_size() == 1:
        assert folder is not None
        return folder, time.time_ns()
    name, started = collectives.from_rank_0([str(folder.absolute()) if folder else "", time.time_ns()])
    return Path(name), started


def root_cause_in_journal(notes: Path, journal: Journal | None) -> AbstractContextManager[None]:
    """Raises the failure of the rank that failed first; rank 0 writes each rank's failure into the journal."""
    if journal is None:
        return failures.raising_root_cause(notes, rank=collectives.rank())
    failures.remove_old_notes(journal.folder, keep=notes)
    write = lambda failure: journal.event("rank_failed", **asdict(failure))  # noqa: E731
    return failures.raising_root_cause(notes, rank=0, on_failure=write)


def console_of(config: dict[str, Any]) -> Console:
    clock, num_val = clock_of(config), config["facts"]["num_val"]
    total, epoch = clock.total_steps, clock.steps_per_epoch
    return Console(total_steps=total, steps_per_epoch=epoch, batch_size=train_batch_size(config), num_val=num_val)


def train(
    config: dict[str, Any], folder: Path, journal: Journal | None, console: Console | None, preemption: Preemption
) -> dict[str, Any]:
    """Builds the parts in order, loads what an earlier attempt saved, and trains. Rank 0 has journal and console."""
    clock = clock_of(config)
    args = settings(TrainerSettings, config["trainer"], clock)
    make = functools.partial(make_part, config, clock)
    device = process_group.pick_device(config["device"])
    saving = config["checkpoint"]
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=saving["keep_last"], save_best=saving["save_best"])

    for line in run_lines(config, folder) if console else ():
        log.info(line)
    saved = take_up(config, checkpoints, journal)
    if saved:
        config = config | {"init_from": None}  # the checkpoint holds all weights: that file may be gone
    torch.set_num_threads(num_threads(config, folder))
    if console:
        log.info(device_line(device))
    task = build_task(config, make, device)
    model = build_model(config, args, device, make)
    for label, text in start_lines(config, model) if console else ():  # a run that goes on has init_from=null
        log.info(f"{label:<7} {text}")
    state = build_state(config, args, model, device, make)
    if saved:
        state.load_state_dict(saved, rank=collectives.rank(), world_size=collectives.world_size())

    recorder: Recorder | Silent = Silent(folder)
    if journal and console:
        console.monitor = saving.get("monitor") or task.monitor
        total, metric, loggers = clock.total_steps, f"val/{console.monitor}", build_loggers(config, make)
        about = describe(config)
        recorder = Recorder(
            *(config, state, checkpoints, journal, loggers),
            console=console,
            total_steps=total,
            metric=metric,
            mode=saving.get("mode") or task.mode,
            about=about,
            timm_config=timm_config(config, model, about),
        )
    profiling: dict[str, Any] = {}
    if args.profile_steps and journal:
        from plainloop.run.profile import Profile, ProfiledTrainer  # the profiler takes a second to import

        profiling = {"kind": ProfiledTrainer, "profile": Profile(folder, args.profile_steps, device)}
    trainer, wrapped = build_trainer(config, state, task, recorder=recorder, preemption=preemption, **profiling)
    with recorder:
        trainer.fit(state, wrapped)
    return recorder.summary


def build_task(config: Mapping[str, Any], make: Make, device: torch.device) -> Task:
    """The task, with its teacher on the device where it has one."""
    task: Task
    if not isinstance(config["task"].get("teacher"), str):
        task = make("task")
    else:
        from plainloop.run.trained.teacher import teacher_of  # which imports this module

        task = make("task", teacher_model=teacher_of(config, device))
    return task


def num_threads(config: Mapping[str, Any], folder: Path) -> int:
    """Threads of each rank that compute on the CPU: the last bits of the result depend on them. Collective.

    `auto` is what the run in `folder` began with on as many ranks; for a new run, what its model can use.
    """
    if config["threads"] != "auto":
        return int(config["threads"])
    began = storage.read_json(folder / "environment.json")
    if began and began.get("ranks", 1) == collectives.world_size():
        chosen = began["threads"]
    else:
        macs = model_summary(config).macs
        chosen = cpus_per_rank() if macs is None else min(cpus_per_rank(), max(1, macs // MACS_PER_THREAD))
    return int(collectives.from_rank_0(chosen))


def torch_draws_alone(config: Mapping[str, Any]) -> bool:
    """Whether task, model and augmentations are known to draw from torch's generators only: no one's own code is."""
    named = re.findall(r'"_target_": "([^"]+)"', json.dumps([config[group] for group in ("task", "model", "augment")]))
    return not config["plugins"] and all(target.startswith(DRAW_FROM_TORCH) for target in named)


def build_trainer(
    config: Mapping[str, Any], state: TrainState, task: Task, *, kind: type[Trainer] = Trainer, **changed: Any
) -> tuple[Trainer, nn.Module]:
    """The loop with its parts, and what runs the forward pass. `changed` adds or replaces arguments of the loop."""
    clock = clock_of(config)
    args = settings(TrainerSettings, config["trainer"], clock)
    saving = settings(CheckpointSettings, config["checkpoint"], clock)
    make = functools.partial(make_part, config, clock)
    device = next(state.model.parameters()).device
    data, augment = build_data(config, make)
    facts, stop = config["facts"], args.early_stop
    parts = {
        "task": task,
        "data": data,
        "augment": list(augment.values()),
        "schedule": build_schedule(config, make),
        "prepare": to_float,
        "normalize": Normalize(
            mean=facts["mean"], std=facts["std"], device=device, channels_last=args.channels_last is True
        ),
        "device": device,
        "seed": config["seed"],
        "steps": clock.total_steps,
        "steps_per_epoch": clock.steps_per_epoch,
        "base_lr": base_lr_of(config),
        "best_by": Monitor(saving.monitor or task.monitor, saving.mode or task.mode),
        "stop_by": Monitor(stop.monitor or task.monitor, stop.mode or task.mode),
        "precision": PRECISIONS[args.precision],
        "eval_every": None if args.eval_every == "never" else args.eval_every,
        "save_every": None if args.save_every == "never" else args.save_every,
        "save_every_s": 60 * saving.every_minutes if saving.every_minutes else None,
        "save_best": saving.save_best,
        "patience": stop.patience,
        "min_delta": stop.min_delta,
        "skip_nonfinite": args.on_nonfinite == "skip",
        "torch_draws_alone": torch_draws_alone(config),
    }
    parts |= {name: getattr(args, name) for name in SAME_NAMES}

    def wrap(state: TrainState) -> nn.Module:
        return backend.wrap(
            state.model,
            device,
            compile=args.compile,
            find_unused_parameters=args.find_unused_parameters,
            static_graph=args.static_graph,
            bucket_cap_mb=args.bucket_cap_mb,
        )

    def thaw(state: TrainState) -> nn.Module:
        """DDP asks once, when it is made, which parameters learn; so it is made anew."""
        assert state.frozen
        state.frozen.thaw()
        state.frozen = None
        state.model.train()
        return wrap(state)

    if state.frozen and state.frozen.until is not None and state.step >= state.frozen.until:
        return kind(**parts | changed), thaw(state)
    return kind(**parts | {"thaw": thaw} | changed), wrap(state)
