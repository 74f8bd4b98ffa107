"""The parts of a run, built from a checked config: by the same functions for the check, the run, a resume and replay.

`make` builds what the node at a dotted key names, as `functools.partial(make_part, config, clock)` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.config.build import arguments_of, build
from plainloop.config.durations import Clock, clock_of, train_batch_size
from plainloop.config.settings import TrainerSettings
from plainloop.config.targets import locate
from plainloop.config.types import signature_of
from plainloop.contracts import Augment, Data, Logger, Preprocessing, SampleTransform, Schedule
from plainloop.errors import BadConfig, BadData

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plainloop.loop.state import TrainState

Make = Callable[..., Any]


def make_part(config: Mapping[str, Any], clock: Clock, key: str, **supplied: Any) -> Any:
    """At the start of a run a ValueError is about what the person has given. Raises BadConfig then."""
    node = node_of(config, key)
    try:
        return build(node, clock, plugins=config["plugins"], **supplied)
    except ValueError as error:
        raise BadConfig(f"{node['_target_']}: {error}") from error


def node_of(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node[part]
    return node


def build_data(config: Mapping[str, Any], make: Make) -> tuple[Data, dict[str, Augment]]:
    """The data source, and the augmentations of whole batches by name, in file order.

    A transform of torchvision is applied to each image. One with a method `sample` runs in the workers where the source
    decodes there.
    """
    from plainloop.augment.per_sample import as_augmentation

    augment = {name: as_augmentation(make(f"augment.{name}")) for name in config["augment"]}
    transforms: list[SampleTransform] = []
    if "sample_transforms" in signature_of(locate(config["data"]["_target_"], config["plugins"])).parameters:
        transforms = [function.sample for function in augment.values() if hasattr(function, "sample")]
        augment = {name: function for name, function in augment.items() if not hasattr(function, "sample")}
    return make("data", sample_transforms=tuple(transforms)), augment


def largest_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the largest images of a training step, where an augmentation changes those of the data."""
    import torch

    clock = clock_of(config)
    made = [make_part(config, clock, f"augment.{name}") for name in config["augment"]]
    changing = [function for function in made if hasattr(function, "largest")]
    if not changing:
        return None
    batch = {"image": torch.empty(1, *config["facts"]["image_shape"], device="meta")}
    for function in changing:
        batch = function.largest()(batch, 0)
    height, width = batch["image"].shape[-2:]
    return height, width


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """How evaluation sees an image file, by what the data source says. The data need not be there.

    Raises BadData where files cannot give such images.
    """
    source = locate(config["data"]["_target_"], config["plugins"])
    if hasattr(source, "preprocessing"):
        found: Preprocessing = source.preprocessing(**arguments_of(config["data"]))
        return found
    from plainloop.data.loading.outside import of_any_source

    try:
        return of_any_source(config["facts"]["image_shape"])
    except ValueError as error:
        raise BadData(str(error)) from error


def build_model(config: Mapping[str, Any], settings: TrainerSettings, device: torch.device, make: Make) -> nn.Module:
    """The model on its device, its initial weights drawn from the run's seed or taken from `init_from`."""
    import torch
    from torch import nn

    from plainloop.distributed import collectives
    from plainloop.models.freeze import freeze_batchnorm
    from plainloop.models.pretrained import otherwise, require_weights
    from plainloop.run_dir.weights import load_weights
    from plainloop.system import rng

    rng.seed_all(rng.fold(rng.INIT, config["seed"]), device)
    require_weights(config["model"])
    try:
        model: nn.Module = make("model")
    except OSError as error:
        raise BadData(f"the weights of the model cannot be read: {error}", hint=otherwise(config["model"])) from error
    if config["init_from"]:
        try:
            load_weights(model, Path(config["init_from"]), config["facts"]["class_names"])
        except ValueError as error:
            raise BadConfig(str(error)) from error
    model = model.to(device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.sync_batchnorm and collectives.world_size() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if settings.freeze_batchnorm:
        freeze_batchnorm(model)
    return model


def lr_scaling_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `optim.scaled_lr` and `optim.scaling_text` take beside the rate."""
    return {"batch_size": train_batch_size(config), **config["trainer"]["lr_scaling"]}


def base_lr_of(config: Mapping[str, Any]) -> float:
    """optimizer.lr, scaled to the run's batch size by trainer.lr_scaling."""
    from plainloop.loop.optim import scaled_lr

    return scaled_lr(config["optimizer"]["lr"], **lr_scaling_of(config))


def build_schedule(config: Mapping[str, Any], make: Make) -> Schedule:
    return make("scheduler", base_lr=base_lr_of(config))


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a config alone, which another run may have saved."""
    clock = clock_of(config)
    return build_schedule(config, lambda key, **supplied: make_part(config, clock, key, **supplied))


def param_groups_of(config: Mapping[str, Any], model: nn.Module) -> list[dict[str, Any]]:
    """The model's parameters by rate and weight decay, as trainer.param_groups and the optimizer's keys say.

    Without those that trainer.freeze keeps for the whole run; others are there from the first step, so that the state
    of the optimizer has one form throughout.
    """
    from plainloop.loop.optim import param_groups
    from plainloop.models.freeze import frozen_names

    trainer, weight_decay = config["trainer"], config["optimizer"].get("weight_decay")
    never = frozen_names(model, trainer["freeze"]) if trainer["freeze_until"] is None else []
    return param_groups(
        model, lr=base_lr_of(config), weight_decay=weight_decay, without=never, **trainer["param_groups"]
    )


def build_optimizer(config: Mapping[str, Any], groups: Sequence[dict[str, Any]], make: Make) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = make("optimizer")(groups, lr=base_lr_of(config))
    return optimizer


def build_state(
    config: Mapping[str, Any], settings: TrainerSettings, model: nn.Module, device: torch.device, make: Make
) -> TrainState:
    """The model with its optimizer, gradient scaler and average, before the first step."""
    from torch.amp.grad_scaler import GradScaler

    from plainloop.loop.state import EMA, TrainState
    from plainloop.models.freeze import Frozen, frozen_names

    groups, names = param_groups_of(config, model), frozen_names(model, settings.freeze)
    return TrainState(
        model=model,
        optimizer=build_optimizer(config, groups, make),
        scaler=GradScaler(device.type, enabled=settings.precision == "fp16"),
        ema=EMA(model, settings.ema_decay) if settings.ema_decay else None,
        frozen=Frozen(model, names, settings.freeze_until) if names else None,
    )


def build_loggers(config: Mapping[str, Any], make: Make) -> list[Logger]:
    """Those that the config names; the recorder itself writes metrics.jsonl and the lines on the console."""
    return [make(f"logger.{name}") for name in config.get("logger") or {} if name != "jsonl"]
