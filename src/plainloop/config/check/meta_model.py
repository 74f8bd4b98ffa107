"""The model on the meta device, where it has shapes and no values: its size and cost, and whether it takes the data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plainloop.config.build import build
from plainloop.config.check.constructor_errors import REFUSALS, finding_from_error, first_line
from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.durations import clock_of
from plainloop.config.targets import locate

_TIMM_MODEL = "timm.create_model"
# Only the run reads weights.
_WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights")
_FLOAT32 = 4  # bytes
# What a person forgot who has data with such an entry, or a task that reads it: the first that the data have counts.
_TASK_FOR = {"boxes": "task=detection", "mask": "task=segmentation", "label": "task=classification"}
_DATA_FOR = {"boxes": "data=coco", "mask": "data=mask_folder", "label": "data=image_folder"}
_SAMPLES = 2  # of the example batch: BatchNorm refuses to learn from one


@dataclass(frozen=True)
class ModelSummary:
    """What the meta device tells of a model; None where it cannot.

    Args:
        macs: multiply-accumulate operations of one sample's forward pass; the mean of the views of an evaluation.
        activations: numbers kept for one sample's backward pass; likewise.
        views: forward passes for each sample of an evaluation.
    """

    parameters: int | None = None
    buffers: int = 0
    macs: int | None = None
    activations: int | None = None
    views: int = 1


Built = tuple[Any, ModelSummary, Finding | None]
_built: dict[str, Built] = {}  # by model, task and data: the jobs of a sweep build no model twice


def example_batch(config: Mapping[str, Any]) -> Any:
    """A batch of the data on the meta device; None where the source gives none."""
    source = locate(config["data"]["_target_"], config["plugins"])
    return source.example_batch(config["facts"], _SAMPLES) if hasattr(source, "example_batch") else None


def model_summary(config: Mapping[str, Any]) -> ModelSummary:
    """The size and the cost of a checked config's model. In the process that has checked it, nothing is built again."""
    return _built_before(config)[1]


def built_model(config: Mapping[str, Any]) -> Any:
    """The model of a checked config on the meta device; None where it needs values."""
    return _built_before(config)[0]


def _built_before(config: Mapping[str, Any]) -> Built:
    return build_on_meta(CheckContext(dict(config), plugins=tuple(config["plugins"]), clock=clock_of(config)))


def build_on_meta(context: CheckContext) -> Built:
    """The model, None where it needs values; its summary; and what is wrong with it."""
    config = context.config
    of_model = [config["model"], config["task"], config["facts"], config["data"]["_target_"]]
    key = json.dumps(of_model, sort_keys=True, default=str)
    if key not in _built:
        _built[key] = _build(context)
    model, summary, finding = _built[key]
    return model, summary, finding or _lacks_masks(model, context)


def _build(context: CheckContext) -> Built:
    import torch

    node = dict(context.config["model"])
    if finding := _unknown_timm_model(node):
        return None, ModelSummary(), finding
    if not node["_target_"].startswith("plainloop."):  # ours have no weights to fetch: they say so when asked for them
        node = {name: value for name, value in node.items() if name not in _WEIGHTS}
    try:
        with torch.device("meta"):
            model = build(node, context.clock, plugins=context.plugins)
    except REFUSALS as error:
        refused = finding_from_error(error, context.config["model"], "model", context)
        return None, ModelSummary(), None if _needs_values(error) else refused
    parameters, buffers = (sum(t.numel() for t in tensors) for tensors in (model.parameters(), model.buffers()))
    summary, finding = _forward(model, context)
    finding = finding or _unknown_loss(model, context)
    return model, replace(summary, parameters=parameters, buffers=buffers), finding


def _unknown_loss(model: Any, context: CheckContext) -> Finding | None:
    names, weights = getattr(model, "losses", ()), context.config["task"].get("losses") or {}
    wrong = next((f"task.losses.{name}" for name in weights if names and name not in names), None)
    keys = [f"task.losses.{name}" for name in names]
    return Finding(wrong, "the model has no such loss", unknown=wrong, keys=keys) if wrong else None


def _lacks_masks(model: Any, context: CheckContext) -> Finding | None:
    """The model learns from masks of objects, and the data are told to give none."""
    if not getattr(model, "learns_from_masks", False) or context.get("data.instance_masks") is not False:
        return None
    what = "learns from masks of objects, and data.instance_masks=false gives only boxes"
    by_task = "task=instance_segmentation where objects have outlines, or model=faster_rcnn"
    instead = "data.instance_masks=true" if context.is_typed("data.instance_masks") else by_task
    return Finding("model", what, instead=instead)


def _forward(model: Any, context: CheckContext) -> tuple[ModelSummary, Finding | None]:
    """Passes an example batch through the model, by the task's own `predict`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from plainloop.loop.normalize import to_float
    from plainloop.models.kept import kept_for_backward

    batch, outputs = example_batch(context.config), []
    try:
        task = build(context.config["task"], context.clock, plugins=context.plugins)
    except REFUSALS:  # the dry run says it
        task = None
    if batch is None or task is None:
        return ModelSummary(), None
    with contextlib.suppress(*REFUSALS):  # what else it refuses, the forward pass says
        try:
            task.weight(batch)
        except KeyError as missing:
            return ModelSummary(), lacks_entry(missing.args[0], batch, context)

    hook = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    flops = FlopCounterMode(display=False)
    try:
        with torch.enable_grad(), flops, kept_for_backward(model) as kept:
            task.predict(model, to_float(batch))
    except REFUSALS as error:
        if _needs_values(error):
            named = dict.fromkeys(getattr(model, "gives", ()))
            problem = task.output_problem(named, batch) if named and hasattr(task, "output_problem") else ""
            return ModelSummary(), finding_from_error(ValueError(problem), {}, "model", context) if problem else None
        if outputs:
            return ModelSummary(), finding_from_error(ValueError(first_line(error)), {}, "model", context)
        shape = "x".join(map(str, context.config["facts"].get("image_shape", ())))
        what = f"does not take images of {shape}: {first_line(error)}"
        finding = finding_from_error(error, context.config["model"], "model", context)
        finding = replace(finding, what=what, expected="a model for this image size and channels")
        if first_line(error).startswith("Input height"):  # timm's words for models that are built for one size
            plus = "" if "img_size" in context.config["model"] else "+"
            finding = replace(finding, instead=f"{plus}model.img_size={context.config['facts']['image_shape'][1]}")
        return ModelSummary(), finding
    finally:
        hook.remove()
    if outputs and hasattr(task, "output_problem") and (problem := task.output_problem(outputs[-1], batch)):
        return ModelSummary(), finding_from_error(ValueError(problem), {}, "model", context)
    views = max(1, len(outputs))
    macs = flops.get_total_flops() // 2 // _SAMPLES // views
    return ModelSummary(macs=macs, activations=kept.bytes // _FLOAT32 // _SAMPLES // views, views=views), None


def lacks_entry(name: str, batch: Mapping[str, Any], context: CheckContext) -> Finding:
    """The task reads an entry that the batches of the data do not have."""
    what = f"reads {name!r} of each batch, and the data give {', '.join(batch)}"
    source = context.config["data"]["_target_"].rpartition(".")[2]
    instead = _DATA_FOR.get(name, "") if context.is_typed("task") and not context.is_typed("data") else ""
    instead = instead or next((task for entry, task in _TASK_FOR.items() if entry in batch), "")
    return Finding("task", what, expected=f"a task for {source}, or other data", instead=instead)


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
