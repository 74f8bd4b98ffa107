"""Whether what a node builds takes an argument that no YAML file names. Loads what it asks about."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from plainloop.config import targets
from plainloop.config.nodes import node_at
from plainloop.config.types import signature_of

_TIMM_MODEL, _TIMM_OPTIMIZER = "timm.create_model", "timm.optim.create_optimizer_v2"


def takes(node: DictConfig, argument: str, plugins: Sequence[str]) -> bool:
    """`node` is raw and has a `_target_`."""
    target = node_at(node, "_target_")._value()
    try:
        signature = signature_of(targets.locate(target, plugins))
    except (ValueError, ImportError):
        return False
    named = node_at(node, "model_name" if target == _TIMM_MODEL else "opt")
    if argument in signature.parameters or not signature.open or named is None:
        return argument in signature.parameters
    return argument in _parameters(target, str(named._value()))


def _parameters(target: str, name: str) -> list[str]:
    """Of the class that timm builds by this name."""
    import timm
    import timm.optim
    import torch

    kind: Any
    try:
        if target == _TIMM_OPTIMIZER:
            kind = timm.optim.get_optimizer_class(name, bind_defaults=False)
        else:
            with torch.device("meta"):
                kind = type(timm.create_model(name))
    except (TypeError, ValueError, RuntimeError):
        return []
    return [parameter for parameter in inspect.signature(kind).parameters if parameter != "kwargs"]
