"""Splits one labelled set in two, each class in the same proportion; the same split for every seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def num_held_out(count: int, fraction: float) -> int:
    """How many of a class's samples are for validation; at least one stays on either side where there are two.

    >>> [num_held_out(n, 0.2) for n in (1, 2, 10, 12, 13)]
    [0, 1, 2, 2, 3]
    """
    if count < 2:
        return 0
    return min(max(round(count * fraction), 1), count - 1)


def stratified_split(labels: NDArray[np.int64], *, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions for training and for validation, each in rising order; labels (N,) of 0, 1, ..."""
    from plainloop.system.rng import SPLIT, fold

    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        drawn = np.random.default_rng(fold(SPLIT, label)).permutation(members)
        held_out[drawn[: num_held_out(len(members), fraction)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
