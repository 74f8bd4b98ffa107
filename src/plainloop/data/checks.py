"""What every source asks of its settings."""

from __future__ import annotations

from collections.abc import Sequence


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
