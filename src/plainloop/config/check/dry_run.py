"""Builds the parts of a run, small and by the run's own functions, so that the check finds what they refuse.

The model is built on the meta device: it takes no memory there and fetches no weights.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from plainloop.config import parts
from plainloop.config.build import build
from plainloop.config.check.constructor_errors import REFUSALS, finding_from_error
from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.check.meta_model import ModelSummary, build_on_meta, example_batch

_PHOTO = 2000  # pixels of the image that transforms in workers are tried on: more than they cut out of one
_OF_PIXELS = {"image", "mask", "instance_mask"}
_RATES = 60  # steps at which a schedule is asked


class Refusal(Exception):
    """The key of a part, and what it raised."""

    def __init__(self, key: str, error: BaseException) -> None:
        self.key, self.error = key, error.with_traceback(None)


def dry_run(context: CheckContext, refusals: dict[str, Refusal | None]) -> tuple[ModelSummary, list[Finding]]:
    """Builds everything. `context` has the facts and the clock.

    `refusals` says what was built before, by its part of the config: the jobs of a sweep build nothing twice.
    """
    config = context.config
    with warnings.catch_warnings(action="ignore"):  # torch's own: those that matter come again with the run
        model, summary, finding = build_on_meta(context)
    if finding:
        return summary, [finding]
    if config["data"].get("device") in ("auto", "cuda", "mps"):  # what has initialised CUDA can no longer fork jobs
        context = replace(context, config=config | {"data": config["data"] | {"device": "cpu"}})
    make = functools.partial(_make, context)
    of_rates = [config[group] for group in ("optimizer", "scheduler", "model", "data")]
    of_rates += [config["trainer"][key] for key in ("param_groups", "lr_scaling", "freeze", "freeze_until")]
    attempts: list[tuple[Any, Callable[[], Any]]] = [
        ([config["task"], _monitors(config)], lambda: _task(config, make)),
        (config["logger"], lambda: parts.build_loggers(config, make)),
        ([config["data"], config["augment"], config["facts"]], lambda: _data(context.config, make)),
        (of_rates, lambda: _rates(config, model, make, context.clock.total_steps)),
        ([config["init_from"], config["model"], config["facts"]], lambda: _initial_weights(config, model)),
    ]
    findings = []
    for number, (content, attempt) in enumerate(attempts):
        key = json.dumps([number, vars(context.clock), content], sort_keys=True, default=str)
        if key not in refusals:
            with _one_thread():
                refusals[key] = _refusal_of(attempt)
        if refusal := refusals[key]:
            findings.append(_finding(refusal, context))
    return summary, findings


@contextmanager
def _one_thread() -> Iterator[None]:
    """Nothing inside starts torch's threads: a job that is forked later would wait for them without end."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _refusals_of(key: str) -> Iterator[None]:
    """Says which part of the config an error inside is about."""
    try:
        yield
    except REFUSALS as error:
        raise Refusal(key, error) from error


def _make(context: CheckContext, key: str, **supplied: Any) -> Any:
    with _refusals_of(key):
        return build(parts.node_of(context.config, key), context.clock, plugins=context.plugins, **supplied)


def _refusal_of(attempt: Callable[[], Any]) -> Refusal | None:
    from plainloop.system import rng

    try:
        with rng.drawing_from(0):
            attempt()
    except Refusal as refusal:
        return refusal
    return None


def _finding(refusal: Refusal, context: CheckContext) -> Finding:
    key, node, error = refusal.key, parts.node_of(context.config, refusal.key), refusal.error
    node = node if isinstance(node, Mapping) else {}
    return finding_from_error(error, node, key, context)


def _task(config: Mapping[str, Any], make: parts.Make) -> None:
    """The monitored metrics are those that the task measures, as far as it can say without samples."""
    task = make("task")
    try:
        measured = sorted(task.metrics().compute())
    except REFUSALS:
        return
    for key, monitor in _monitors(config).items():
        if monitor is not None and monitor not in measured:
            with _refusals_of(key):
                raise ValueError(f"the task measures no {monitor!r}; it measures {', '.join(measured)}")


def _monitors(config: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("trainer.early_stop.monitor", "checkpoint.monitor")
    return {key: parts.node_of(config, key) for key in keys}


def _data(config: Mapping[str, Any], make: parts.Make) -> None:
    """Augmentations of whole batches take an example batch, those in workers a large example sample."""
    import torch

    from plainloop.loop.normalize import to_float

    data, augment = parts.build_data(config, make)
    example = example_batch(config)
    if example is None:
        return
    zeros = {name: torch.zeros_like(tensor, device="cpu") for name, tensor in example.items()}
    large = {
        name: torch.zeros(*zeros[name].shape[1:-2], _PHOTO, _PHOTO, dtype=zeros[name].dtype)
        for name in _OF_PIXELS & zeros.keys()
    }
    sample = {name: tensor[0] for name, tensor in zeros.items()} | large
    batch = to_float(zeros)
    for name, function in augment.items():
        with _refusals_of(f"augment.{name}"):
            batch = function(batch, 0)
            if not isinstance(batch, dict):
                raise TypeError(f"gives a {type(batch).__name__} where a batch is expected: see docs/your_own_parts.md")
    in_workers = [name for name in config["augment"] if name not in augment]
    for name, transform in zip(in_workers, getattr(data, "sample_transforms", ()), strict=False):
        from plainloop.data.loading.samples import transformed

        with _refusals_of(f"augment.{name}"):
            if hasattr(data, "refuse_transform"):
                data.refuse_transform(name, transform)
            transformed(sample, [transform])


def _rates(config: Mapping[str, Any], model: Any, make: parts.Make, total_steps: int) -> None:
    """The optimizer on small parameters in the groups of the real ones, under the schedule."""
    import torch

    from plainloop.loop.optim import set_rate
    from plainloop.models.freeze import frozen_names

    model = torch.nn.BatchNorm1d(2) if model is None else model
    with _refusals_of("trainer.freeze"):
        frozen_names(model, config["trainer"]["freeze"])
    with _refusals_of("trainer.param_groups"):
        groups = parts.param_groups_of(config, model)
    for group in groups:
        group["params"] = [torch.nn.Parameter(torch.zeros([2] * weight.ndim)) for weight in group["params"]]
    with _refusals_of("optimizer"):
        optimizer = parts.build_optimizer(config, groups, make)
    schedule = parts.build_schedule(config, make)
    momentum = getattr(schedule, "momentum", lambda step: None)
    with _refusals_of("scheduler"):
        for step in sorted({round(i * total_steps / (_RATES - 1)) for i in range(_RATES)}):
            multiplier = schedule(step)
            if not math.isfinite(multiplier):
                raise ValueError(f"the rate at step {step} is {multiplier}")
            set_rate(optimizer, multiplier, momentum(step))


def _initial_weights(config: Mapping[str, Any], model: Any) -> None:
    from plainloop.models.pretrained import require_weights

    with _refusals_of("model"):
        require_weights(config["model"])
    if config["init_from"] and model is not None:
        from plainloop.run_dir.weights import matching_weights

        with _refusals_of("init_from"):
            matching_weights(model, Path(config["init_from"]), config["facts"]["class_names"])
