"""The parts of a run, built from their nodes of the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from plainloop.config.durations import train_batch_size
from plainloop.config.settings import TrainerSettings
from plainloop.config.targets import locate
from plainloop.config.types import signature_of
from plainloop.contracts import Augment, Data, Logger, SampleTransform, Schedule
from plainloop.distributed import collectives
from plainloop.errors import BadConfig
from plainloop.loggers.jsonl import Jsonl
from plainloop.loop.optim import param_groups, scaled_lr
from plainloop.loop.state import EMA, TrainState
from plainloop.run_dir.weights import load_weights
from plainloop.system import rng

Make = Callable[..., Any]  # a node of the config -> what it names


def build_data(config: Mapping[str, Any], make: Make) -> tuple[Data, list[Augment]]:
    """The data source, and the augmentations of whole batches in file order.

    An augmentation with a method `sample` runs in the workers where the source decodes there.
    """
    augment = [make(node) for node in config["augment"].values()]
    transforms: list[SampleTransform] = []
    if "sample_transforms" in signature_of(locate(config["data"]["_target_"], config["plugins"])).parameters:
        transforms = [function.sample for function in augment if hasattr(function, "sample")]
        augment = [function for function in augment if not hasattr(function, "sample")]
    return make(config["data"], sample_transforms=tuple(transforms)), augment


def build_model(config: Mapping[str, Any], args: TrainerSettings, device: torch.device, make: Make) -> nn.Module:
    """The model on its device, its initial weights drawn from the run's seed or taken from `init_from`."""
    rng.seed_all(rng.fold(rng.INIT, config["seed"]), device)
    model: nn.Module = make(config["model"])
    if config["init_from"]:
        try:
            load_weights(model, Path(config["init_from"]))
        except ValueError as error:
            raise BadConfig(str(error)) from error
    model = model.to(device)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if args.sync_batchnorm and collectives.world_size() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def base_rate(config: Mapping[str, Any]) -> float:
    """optimizer.lr, scaled to the run's batch size by trainer.lr_scaling."""
    scaling = config["trainer"]["lr_scaling"]
    return scaled_lr(
        config["optimizer"]["lr"],
        rule=scaling["rule"],
        batch_size=train_batch_size(config),
        base_batch_size=scaling["base_batch_size"],
    )


def build_schedule(config: Mapping[str, Any], make: Make) -> Schedule:
    return make(config["scheduler"], base_lr=base_rate(config))


def build_state(
    config: Mapping[str, Any], args: TrainerSettings, model: nn.Module, device: torch.device, make: Make
) -> TrainState:
    """The model with its optimizer, gradient scaler and average, before the first step."""
    lr = base_rate(config)
    groups = param_groups(model, lr=lr, weight_decay=config["optimizer"].get("weight_decay"), **vars(args.param_groups))
    return TrainState(
        model=model,
        optimizer=make(config["optimizer"] | {"lr": lr})(groups),
        scaler=GradScaler(device.type, enabled=args.precision == "fp16"),
        ema=EMA(model, args.ema_decay) if args.ema_decay else None,
    )


def build_loggers(config: Mapping[str, Any], make: Make) -> Sequence[Logger]:
    """metrics.jsonl always, then what the config names."""
    return [Jsonl(), *(make(node) for name, node in (config.get("logger") or {}).items() if name != "jsonl")]
