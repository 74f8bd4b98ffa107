"""Builds the parts of a run by the run's own functions, small, so that what they refuse is said by the check.

The model is built on the meta device: it has shapes and no values, takes no memory and fetches no weights.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plainloop.config import parts
from plainloop.config.build import build
from plainloop.config.check.constructor_errors import REFUSALS, finding_from_error, first_line
from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.targets import locate

_TIMM_MODEL, _TIMM_OPTIMIZER = "timm.create_model", "timm.optim.create_optimizer_v2"
# Reading weights is the run's business; what the arguments mean can be seen without.
_WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights")
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_RATES = 60  # steps at which a schedule is asked
_SAMPLES = 2  # of the example batch: BatchNorm refuses to learn from one


@dataclass(frozen=True)
class ModelSummary:
    """What the meta device tells of a model; None where it cannot.

    Args:
        macs: multiply-accumulate operations of one sample's forward pass.
        activations: elements kept for one sample's backward pass, roughly.
    """

    parameters: int | None = None
    buffers: int = 0
    macs: int | None = None
    activations: int | None = None


@dataclass
class DryRunCache:
    """What was built before, by its part of the config: the jobs of a sweep build nothing twice."""

    models: dict[str, tuple[Any, ModelSummary, Finding | None]] = field(default_factory=dict)
    refusals: dict[str, Refusal | None] = field(default_factory=dict)


class Refusal(Exception):
    """The key of a part, and what it raised."""

    def __init__(self, key: str, error: BaseException) -> None:
        self.key, self.error = key, error.with_traceback(None)


def dry_run(context: CheckContext, cache: DryRunCache) -> tuple[ModelSummary, list[Finding]]:
    """Builds everything. `context` has the facts and the clock."""
    config = context.config
    with warnings.catch_warnings(action="ignore"):  # torch's own: those that matter come again with the run
        model, summary, finding = _model(context, cache)
    if finding:
        return summary, [finding]
    if config["data"].get("device") in ("auto", "cuda", "mps"):  # what has initialised CUDA can no longer fork jobs
        context = replace(context, config=config | {"data": config["data"] | {"device": "cpu"}})
    make = functools.partial(_make, context)
    of_rates = [config[group] for group in ("optimizer", "scheduler", "model", "data")]
    of_rates += [config["trainer"][key] for key in ("param_groups", "lr_scaling")]
    attempts: list[tuple[Any, Callable[[], Any]]] = [
        ([config["task"], _monitors(config)], lambda: _task(config, make)),
        (config["logger"], lambda: parts.build_loggers(config, make)),
        ([config["data"], config["augment"], config["facts"]], lambda: _data(context.config, make)),
        (of_rates, lambda: _rates(config, model, make, context.steps.total_steps)),
        ([config["init_from"], config["model"]], lambda: _initial_weights(config, model)),
    ]
    findings = []
    for number, (content, attempt) in enumerate(attempts):
        key = json.dumps([number, vars(context.steps), content], sort_keys=True, default=str)
        if key not in cache.refusals:
            cache.refusals[key] = _refusal_of(attempt)
        if refusal := cache.refusals[key]:
            findings.append(_finding(refusal, context))
    return summary, findings


@contextmanager
def _refusals_of(key: str) -> Iterator[None]:
    """Says which part of the config an error inside is about."""
    try:
        yield
    except REFUSALS as error:
        raise Refusal(key, error) from error


def _make(context: CheckContext, key: str, **supplied: Any) -> Any:
    with _refusals_of(key):
        return build(parts.node_of(context.config, key), context.steps, plugins=context.plugins, **supplied)


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
    if node.get("_target_") == _TIMM_OPTIMIZER and "not found" in str(error):
        import timm.optim

        names = [str(name) for name in timm.optim.list_optimizers()]
        listed = f'one of {len(names)} names: python -c "import timm.optim; print(*timm.optim.list_optimizers())"'
        name = node.get("opt")
        return Finding("optimizer.opt", "timm has no such optimizer", str(name), listed, value=name, choices=names)
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
    """Augmentations of whole batches take an example batch; what runs in workers is only built."""
    import torch

    from plainloop.loop.normalize import to_float

    _, augment = parts.build_data(config, make)
    batch = example_batch(config)
    if batch is None:
        return
    batch = to_float({name: torch.zeros_like(tensor, device="cpu") for name, tensor in batch.items()})
    for name, function in augment.items():
        with _refusals_of(f"augment.{name}"):
            batch = function(batch, 0)


def _rates(config: Mapping[str, Any], model: Any, make: parts.Make, total_steps: int) -> None:
    """The optimizer on small parameters in the groups of the real ones, under the schedule."""
    import torch

    from plainloop.loop.optim import set_rate

    with _refusals_of("trainer.param_groups"):
        model = torch.nn.BatchNorm1d(2) if model is None else model
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
    if config["init_from"] and model is not None:
        from plainloop.run_dir.weights import fitting

        with _refusals_of("init_from"):
            fitting(model, Path(config["init_from"]))


# The model


def example_batch(config: Mapping[str, Any]) -> Any:
    """A batch of the data on the meta device; None where the source gives none."""
    source = locate(config["data"]["_target_"], config["plugins"])
    return source.example_batch(config["facts"], _SAMPLES) if hasattr(source, "example_batch") else None


def model_summary(config: Mapping[str, Any]) -> ModelSummary:
    """The size and the cost of a checked config's model."""
    context = CheckContext(dict(config), plugins=tuple(config["plugins"]))
    return _model(context, DryRunCache())[1]


def _model(context: CheckContext, cache: DryRunCache) -> tuple[Any, ModelSummary, Finding | None]:
    """The model on the meta device, None where it needs values; its summary; and what is wrong with it."""
    config = context.config
    key = json.dumps([config[name] for name in ("model", "task", "data", "facts")], sort_keys=True, default=str)
    if key not in cache.models:
        cache.models[key] = _built_model(context)
    return cache.models[key]


def _built_model(context: CheckContext) -> tuple[Any, ModelSummary, Finding | None]:
    import torch

    node = dict(context.config["model"])
    if finding := _unknown_timm_model(node):
        return None, ModelSummary(), finding
    if not node["_target_"].startswith("plainloop."):  # ours have no weights to fetch: they say so when asked for them
        node = {name: value for name, value in node.items() if name not in _WEIGHTS}
    try:
        with torch.device("meta"):
            model = build(node, context.steps, plugins=context.plugins)
    except REFUSALS as error:
        return None, ModelSummary(), None if _needs_values(error) else _model_refused(error, context)
    parameters, buffers = (sum(t.numel() for t in tensors) for tensors in (model.parameters(), model.buffers()))
    summary, finding = _forward(model, context)
    return model, replace(summary, parameters=parameters, buffers=buffers), finding


def _forward(model: Any, context: CheckContext) -> tuple[ModelSummary, Finding | None]:
    """Passes an example batch through the model, by the task's own `predict`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from plainloop.loop.normalize import to_float

    batch, outputs, elements, problem = example_batch(context.config), [], [], ""
    try:
        task = build(context.config["task"], context.steps, plugins=context.plugins)
    except REFUSALS:  # said elsewhere
        return ModelSummary(), None
    if batch is None:
        return ModelSummary(), None

    def count(_module: Any, _inputs: Any, output: Any) -> None:
        elements.append(output.numel() if isinstance(output, torch.Tensor) else 0)

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    hooks.append(model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)))
    flops = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), flops:
            task.predict(model, to_float(batch))
    except REFUSALS as error:
        if _needs_values(error):
            return ModelSummary(), None
        if not outputs:
            shape = "x".join(map(str, context.config["facts"].get("image_shape", ())))
            finding = finding_from_error(error, context.config["model"], "model", context)
            what = f"does not take images of {shape}: {first_line(error)}"
            return ModelSummary(), replace(finding, what=what, expected="a model for this image size and channels")
        problem = first_line(error)
    finally:
        for hook in hooks:
            hook.remove()
    if not problem and outputs and hasattr(task, "output_problem"):
        problem = task.output_problem(outputs[-1], batch)
    if problem:
        return ModelSummary(), finding_from_error(ValueError(problem), {}, "model", context)
    macs = flops.get_total_flops() // 2 // _SAMPLES
    return ModelSummary(macs=macs, activations=sum(elements) // _SAMPLES), None


def _needs_values(error: Exception) -> bool:
    """Whether the error comes from the meta device, which has no values, and not from the config."""
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def _unknown_timm_model(node: Mapping[str, Any]) -> Finding | None:
    if node["_target_"] != _TIMM_MODEL:
        return None
    import timm

    name = node.get("model_name")
    if not isinstance(name, str) or ":" in name or timm.is_model(name):  # hf-hub:... and local-dir:... are no names
        return None
    names = timm.list_models()
    notes = (f'{len(names)} names: python -c "import timm; print(*timm.list_models())"',)
    value = name.partition(".")[0]
    return Finding("model.model_name", "timm has no such model", repr(name), value=value, choices=names, notes=notes)


def _model_refused(error: Exception, context: CheckContext) -> Finding:
    """A `**kwargs` target passes what it does not know to the model, which says so in its own words."""
    node = context.config["model"]
    found = _UNEXPECTED.search(str(error))
    if found is None or found[1] not in node:
        return finding_from_error(error, node, "model", context)
    what = f"unknown key: {node.get('model_name', node['_target_'])} has no such argument"
    key = f"model.{found[1]}"
    return Finding(key, what, unknown=key, keys=[f"model.{name}" for name in _arguments(node)])


def _arguments(node: Mapping[str, Any]) -> list[str]:
    """Arguments of the class behind a timm model's name."""
    if node["_target_"] != _TIMM_MODEL:
        return []
    import timm
    import torch

    try:
        with torch.device("meta"):
            kind: Any = type(timm.create_model(node["model_name"]))
    except REFUSALS:
        return []
    return [parameter for parameter in inspect.signature(kind).parameters if parameter != "kwargs"]
