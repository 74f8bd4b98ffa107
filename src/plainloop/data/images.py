"""What all sources of labelled images share: the check of mean and std, and an example batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plainloop.contracts import Batch


def channel_statistics(
    mean: Sequence[float], std: Sequence[float], *, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images in [0, 1]; raises ValueError where they cannot be that."""
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(f"data.{key}={list(values)} must have one value for each of the {channels} channels")
    if not all(value > 0 for value in std):
        raise ValueError(f"data.std={list(std)} must be above 0 everywhere")
    return tuple(map(float, mean)), tuple(map(float, std))


def example_batch(facts: Mapping[str, Any], batch_size: int) -> Batch:
    """image (B, C, H, W) uint8, label (B,) int64 and index (B,) int64 on the meta device."""
    import torch

    with torch.device("meta"):
        numbers = torch.empty(batch_size, dtype=torch.int64)
        image = torch.empty(batch_size, *facts["image_shape"], dtype=torch.uint8)
        return {"image": image, "label": numbers, "index": torch.empty_like(numbers)}
