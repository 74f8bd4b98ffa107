"""The feature maps of a timm model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import FeatureInfo
from torch import nn


def timm_backbone(name: str, strides: Sequence[int], *, in_chans: int, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """A timm model that gives its maps at these strides in pixels, as a list, and their channels.

    Raises ValueError if it has no such maps.
    """
    if not timm.is_model(name):
        raise ValueError(f"model.backbone={name!r} is no timm model; resnet50, darknet53 and such are")
    fetches = pretrained and not torch.empty(0).is_meta  # the check builds it without values, and fetches nothing
    settings: dict[str, Any] = {"features_only": True, "in_chans": in_chans}
    with torch.device("meta"):
        there = info_of(timm.create_model(name, **settings)).reduction()
    if missing := set(strides) - set(there):
        raise ValueError(
            f"model.backbone={name} has maps at {there} pixels, and none at {sorted(missing)}; take a convolutional "
            "one, such as resnet18 or darknet53"
        )
    indices = [len(there) - 1 - there[::-1].index(stride) for stride in strides]
    model = timm.create_model(name, pretrained=fetches, out_indices=indices, **settings)
    return model, info_of(model).channels()


def info_of(model: nn.Module) -> FeatureInfo:
    info = model.feature_info
    assert isinstance(info, FeatureInfo)
    return info
