"""Splits one labelled set in two, or takes a part of it, each class in proportion; the same for every seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

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


def members_of_each(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions of each class, in rising order; labels (N,) of 0, 1, ...

    >>> [members.tolist() for members in members_of_each(np.array([2, 0, 2]))]
    [[1], [], [0, 2]]
    """
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])


def stratified_split(labels: NDArray[np.int64], *, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions for training and for validation, each in rising order; labels (N,) of 0, 1, ..."""
    from plainloop.system.rng import SPLIT, fold

    held_out = np.zeros(len(labels), dtype=bool)
    for label, members in enumerate(members_of_each(labels)):
        drawn = np.random.default_rng(fold(SPLIT, label)).permutation(members)
        held_out[drawn[: num_held_out(len(members), fraction)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_counts(counts: Sequence[int], at_most: int) -> list[int]:
    """How many samples of each class a part of `at_most` samples has: one, and of the others in proportion.

    >>> stratified_counts([600, 300, 3], 90), stratified_counts([2, 2], 10)
    ([59, 30, 1], [2, 2])

    Raises ValueError for fewer samples than classes.
    """
    if at_most < len(counts):
        raise ValueError(f"data.max_train_samples={at_most} must be at least the number of classes, {len(counts)}")
    others, shared = sum(counts) - len(counts), min(at_most, sum(counts)) - len(counts)
    ends = [(2 * shared * end + others) // (2 * others) if others else 0 for end in accumulate(n - 1 for n in counts)]
    return [1 + end - start for start, end in zip([0, *ends], ends, strict=False)]


def stratified_part(labels: NDArray[np.int64], *, at_most: int | None) -> NDArray[np.int64]:
    """Positions of a part with `at_most` samples, in rising order; None is all."""
    if at_most is None:
        return np.arange(len(labels))
    from plainloop.system.rng import SPLIT, fold

    taken = np.zeros(len(labels), dtype=bool)
    classes = members_of_each(labels)
    for label, count in enumerate(stratified_counts([len(members) for members in classes], at_most)):
        drawn = np.random.default_rng(fold(SPLIT, label, 1)).permutation(classes[label])
        taken[drawn[:count]] = True
    return np.flatnonzero(taken)
