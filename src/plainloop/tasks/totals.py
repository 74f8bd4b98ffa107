"""What running totals of metrics share."""

from __future__ import annotations

import math

import torch


def share(part: float, whole: float) -> float:
    """NaN of nothing."""
    return part / whole if whole else math.nan


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
