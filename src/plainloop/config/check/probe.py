"""Builds the model on the meta device: no memory and no weights, but its opinion of its arguments and of the images."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plainloop.config.build import build
from plainloop.config.check.constructor_errors import REFUSALS, first_line, refused
from plainloop.config.compose.origin import Origin
from plainloop.config.durations import Clock
from plainloop.config.explain.problems import Problem
from plainloop.config.explain.suggest import nearest

_TIMM = "timm.create_model"
# Reading weights is the run's business; what the arguments mean can be seen without.
_WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights")
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


@dataclass(frozen=True)
class Probed:
    parameters: int
    buffers: int
    activations: int | None  # elements kept for one image's backward pass, roughly; None when the model takes no images
    outputs: tuple[int, ...] | None  # shape of the output for one image
    problems: tuple[Problem, ...] = ()
    model: Any = field(default=None, repr=False)  # on the meta device; None where it needs real tensors


def probe(
    config: Mapping[str, Any], origin: Origin, plugins: Sequence[str], seen: dict[str, Probed]
) -> tuple[Probed, list[Problem]]:
    """What the model is, and what is wrong with it. The same model on the same images is built once for a sweep."""
    key = json.dumps([config["model"], config["facts"]["image_shape"]], sort_keys=True, default=str)
    if key not in seen:
        seen[key] = _probe(config, origin, plugins)
    probed = seen[key]
    problems = list(probed.problems)
    classes = config["facts"]["num_classes"]
    told = config["model"].get("num_classes", classes) != classes  # by rules.model_and_data_have_the_same_classes
    if not (problems or told) and _classifies(config) and probed.outputs not in (None, (classes,)):
        problems.append(
            Problem(
                "model",
                "gives another number of classes than the data have",
                f"{probed.outputs} per image",
                f"({classes},)",
                origin.given_by("model"),
                instead="model.num_classes=${facts.num_classes}",
            )
        )
    return probed, problems


def _probe(config: Mapping[str, Any], origin: Origin, plugins: Sequence[str]) -> Probed:
    import torch

    node = dict(config["model"])
    if node["_target_"] == _TIMM:
        problem = _unknown_timm_model(node, origin)
        if problem is not None:
            return Probed(0, 0, None, None, (problem,))
    # Ours have no weights to fetch: they say so when they are asked for them.
    heavy = () if node["_target_"].startswith("plainloop.") else _WEIGHTS
    light = {name: value for name, value in node.items() if name not in heavy}
    try:
        with torch.device("meta"):
            model = build(light, Clock(1, 1), plugins=plugins)
    except REFUSALS as error:
        if _needs_tensors(error):  # then it is judged when it is built
            return Probed(0, 0, None, None)
        return Probed(0, 0, None, None, (_refused(error, node, origin),))
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for b in model.buffers())
    if not _classifies(config):
        return Probed(parameters, buffers, None, None, model=model)
    return _look_at_images(model, config, origin, parameters, buffers)


def _look_at_images(model: Any, config: Mapping[str, Any], origin: Origin, parameters: int, buffers: int) -> Probed:
    import torch

    shape, elements = tuple(config["facts"]["image_shape"]), 0

    def count(_module: Any, _inputs: Any, output: Any) -> None:
        nonlocal elements
        elements += output.numel() if isinstance(output, torch.Tensor) else 0

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.device("meta"), torch.no_grad():
            # Two images: BatchNorm refuses to learn from one.
            output = model(torch.empty(2, *shape))
    except REFUSALS as error:
        if _needs_tensors(error):
            return Probed(parameters, buffers, None, None, model=model)
        problem = refused(error, config["model"], "model", origin)
        what = f"does not take images of {'x'.join(map(str, shape))}: {first_line(error)}"
        expected = problem.expected or "a model for this image size and channels"
        return Probed(parameters, buffers, None, None, (replace(problem, what=what, expected=expected),))
    finally:
        for hook in hooks:
            hook.remove()
    outputs = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else None
    return Probed(parameters, buffers, elements // 2, outputs, model=model)


def _needs_tensors(error: Exception) -> bool:
    """Whether it is the meta device that is refused, which has no numbers to look at."""
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def _classifies(config: Mapping[str, Any]) -> bool:
    return str(config["task"]["_target_"]).startswith("plainloop.tasks.classification.")


def _unknown_timm_model(node: Mapping[str, Any], origin: Origin) -> Problem | None:
    import timm

    name = node.get("model_name")
    if (
        not isinstance(name, str) or ":" in name or timm.is_model(name)
    ):  # hf-hub:... and local-dir:... name no registered one
        return None
    near = nearest(name.partition(".")[0], timm.list_models())
    return Problem(
        "model.model_name",
        "timm has no such model",
        repr(name),
        given_by=origin.given_by("model.model_name"),
        meant=", ".join(near),
        instead=f"model.model_name={near[0]}" if near else "",
        notes=(f'{len(timm.list_models())} names: python -c "import timm; print(*timm.list_models())"',),
    )


def _refused(error: Exception, node: Mapping[str, Any], origin: Origin) -> Problem:
    """A `**kwargs` target passes what it does not know to the model, which says so in its own words."""
    found = _UNEXPECTED.search(str(error))
    if found is None or found[1] not in node:
        return refused(error, node, "model", origin)
    key, names = f"model.{found[1]}", _arguments(node)
    near = nearest(found[1], names)
    return Problem(
        key,
        f"unknown key: {node.get('model_name', node['_target_'])} has no such argument",
        given_by=origin.given_by(key),
        meant=f"model.{near[0]}" if near else "",
    )


def _arguments(node: Mapping[str, Any]) -> list[str]:
    """Arguments of the class behind a timm model's name."""
    import timm

    name = node.get("model_name")
    if node["_target_"] != _TIMM or not isinstance(name, str):
        return []
    try:
        kind: Callable[..., Any] = type(_on_meta(timm.create_model, name))
    except (TypeError, ValueError, RuntimeError):
        return []
    return [parameter for parameter in inspect.signature(kind).parameters if parameter != "kwargs"]


def _on_meta(function: Callable[..., Any], *arguments: Any) -> Any:
    import torch

    with torch.device("meta"):
        return function(*arguments)
