"""Builds the parts of a run as the run will, on the CPU and small, so that what they refuse is told in the check."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.config.build import build
from plainloop.config.check.constructor_errors import REFUSALS, refused, unknown_optimizer
from plainloop.config.compose.origin import Origin
from plainloop.config.durations import Clock, train_batch_size
from plainloop.config.explain.problems import Problem
from plainloop.config.targets import locate
from plainloop.config.types import signature_of

# By what was built: the key of the part that refused and its error, or nothing. Jobs of a sweep share it.
Tried = dict[str, "tuple[str, Exception] | None"]

_RATES = 60  # steps at which a schedule is asked


class _Refused(Exception):
    """A part within a group: its key, and what it raised."""

    def __init__(self, path: str, error: Exception) -> None:
        self.path, self.error = path, error


def trial(
    config: Mapping[str, Any], clock: Clock, origin: Origin, plugins: Sequence[str], model: Any, tried: Tried
) -> list[Problem]:
    """What task, loggers, augmentations, optimizer, schedule and initial weights refuse.

    Args:
        config: checked, with its facts.
        model: on the meta device; None where it cannot be there.
        tried: what was tried before; a part that does not differ is not built again.
    """
    make = functools.partial(build, clock=clock, plugins=plugins)
    rate = _base_rate(config)
    about_rates = (
        [config[group] for group in ("optimizer", "scheduler", "model")],
        config["trainer"]["param_groups"],
        rate,
    )
    attempts: list[tuple[str, Any, Callable[[], Any]]] = [
        ("task", config["task"], lambda: make(config["task"])),
        ("logger", config["logger"], lambda: _loggers(config, make)),
        ("augment", [config["augment"], config["facts"]], lambda: _augment(config, make, plugins)),
        ("optimizer", about_rates, lambda: _rates(config, clock, make, model, rate)),
        ("init_from", [config["init_from"], config["model"]], lambda: _weights(config, model)),
    ]
    problems = []
    for path, content, attempt in attempts:
        key = json.dumps([path, vars(clock), content], sort_keys=True, default=str)
        if key not in tried:
            tried[key] = _error_of(path, attempt)
        found = tried[key]
        if found is not None:
            problems.append(_problem(*found, config, origin))
    return problems


def _error_of(path: str, attempt: Callable[[], Any]) -> tuple[str, Exception] | None:
    from plainloop.system import rng

    try:
        with rng.drawing_from(0):
            attempt()
    except _Refused as refusal:
        return refusal.path, refusal.error.with_traceback(None)
    except REFUSALS as error:
        return path, error.with_traceback(None)
    return None


def _problem(path: str, error: Exception, config: Mapping[str, Any], origin: Origin) -> Problem:
    node: Any = config
    for part in path.split("."):
        node = node[part]
    if not isinstance(node, Mapping):
        return refused(error, {}, path, origin)
    problem = refused(error, node, path, origin)
    if node.get("_target_") == "timm.optim.create_optimizer_v2" and "not found" in str(error):
        return unknown_optimizer(problem, node)
    return problem


def _within(path: str, attempt: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return attempt(*arguments)
    except REFUSALS as error:
        raise _Refused(path, error) from error


def _loggers(config: Mapping[str, Any], make: Callable[..., Any]) -> None:
    for name, node in (config["logger"] or {}).items():
        _within(f"logger.{name}", make, node)


def _augment(config: Mapping[str, Any], make: Callable[..., Any], plugins: Sequence[str]) -> None:
    """Two images go through all that get whole batches; what runs in workers sees images of any size, and is built."""
    import torch

    facts = config["facts"]
    in_workers = "sample_transforms" in signature_of(locate(config["data"]["_target_"], plugins)).parameters
    batch = {
        "image": torch.rand(2, *facts["image_shape"]),
        "label": torch.randint(facts["num_classes"], (2,)),
        "index": torch.arange(2),
    }
    for name, node in config["augment"].items():
        augmentation = _within(f"augment.{name}", make, node)
        if not (in_workers and hasattr(augmentation, "sample")):
            batch = _within(f"augment.{name}", augmentation, batch, 0)


def _rates(config: Mapping[str, Any], clock: Clock, make: Callable[..., Any], model: Any, lr: float) -> None:
    """The optimizer on small parameters in the groups of the real ones, under the schedule."""
    from plainloop.loop.optim import set_rate

    groups = _within("trainer.param_groups", _groups, config, model, lr)
    optimizer = _within("optimizer", lambda: make(config["optimizer"] | {"lr": lr})(groups))
    schedule = _within("scheduler", lambda: make(config["scheduler"], base_lr=lr))
    momentum = getattr(schedule, "momentum", lambda step: None)

    def ask() -> None:
        for step in sorted({round(i * clock.total_steps / (_RATES - 1)) for i in range(_RATES)}):
            multiplier = schedule(step)
            if not math.isfinite(multiplier):
                raise ValueError(f"the rate at step {step} is {multiplier}")
            set_rate(optimizer, multiplier, momentum(step))

    _within("scheduler", ask)


def _groups(config: Mapping[str, Any], model: Any, lr: float) -> list[dict[str, Any]]:
    import torch

    from plainloop.loop.optim import param_groups

    def small(dimensions: int) -> Any:
        return torch.nn.Parameter(torch.zeros([2] * dimensions))

    if model is None:
        return [{"params": [small(2), small(1)], "lr": lr}]
    decay = config["optimizer"].get("weight_decay")
    groups = param_groups(model, lr=lr, weight_decay=decay, **config["trainer"]["param_groups"])
    return [group | {"params": [small(parameter.ndim) for parameter in group["params"]]} for group in groups]


def _weights(config: Mapping[str, Any], model: Any) -> None:
    if config["init_from"] and model is not None:
        from plainloop.run_dir.weights import fitting

        fitting(model, Path(config["init_from"]))


def _base_rate(config: Mapping[str, Any]) -> float:
    from plainloop.loop.optim import scaled_lr

    batch_size = train_batch_size(config)
    return scaled_lr(config["optimizer"]["lr"], batch_size=batch_size, **config["trainer"]["lr_scaling"])
