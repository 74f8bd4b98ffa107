"""The feature maps of a timm model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import FeatureInfo
from torch import nn


def timm_backbone(
    name: str, strides: Sequence[int], *, in_chans: int, pretrained: bool, weights: str | None = None
) -> tuple[nn.Module, list[int]]:
    """A timm model that gives its maps at these strides in pixels, as a list, and their channels.

    `weights` is a safetensors file of the whole timm model, such as best.safetensors of a run that classifies.

    Raises ValueError if it has no such maps, or there is no such file.
    """
    if not timm.is_model(name):
        raise ValueError(f"model.backbone={name!r} is no timm model; resnet50, darknet53 and such are")
    if weights is not None and (Path(weights).suffix != ".safetensors" or not Path(weights).is_file()):
        raise ValueError(
            f"model.backbone_weights={weights} is no safetensors file; a run that classifies has best.safetensors"
        )
    published: dict[str, Any] = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    # The check builds it without values, and fetches nothing.
    fetches = (pretrained or weights is not None) and not torch.empty(0).is_meta
    settings: dict[str, Any] = {"features_only": True, "in_chans": in_chans}
    with torch.device("meta"):
        there = info_of(timm.create_model(name, **settings)).reduction()
    if missing := set(strides) - set(there):
        raise ValueError(
            f"model.backbone={name} has maps at {there} pixels, and none at {sorted(missing)}; take a convolutional "
            "one, such as resnet18 or darknet53"
        )
    indices = [len(there) - 1 - there[::-1].index(stride) for stride in strides]
    model = timm.create_model(name, pretrained=fetches, out_indices=indices, **published, **settings)
    return model, info_of(model).channels()


def info_of(model: nn.Module) -> FeatureInfo:
    info = model.feature_info
    assert isinstance(info, FeatureInfo)
    return info
