"""Splits a labelled set in two or in folds, or takes a part of it, each class in proportion; for every seed alike."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from plainloop.data.loading.layout import quoted


def num_held_out(count: int, fraction: float) -> int:
    """How many of a class's samples are for validation; at least one stays on either side where there are two.

    >>> [num_held_out(n, 0.2) for n in (1, 2, 10, 12, 13)]
    [0, 1, 2, 2, 3]
    """
    if count < 2:
        return 0
    return min(max(round(count * fraction), 1), count - 1)


def held_out_by_name(names: Sequence[str], fraction: float) -> list[int]:
    """Positions for validation: by a hash of the name, so that they stay almost the same when files are added."""
    if not 0 < fraction < 1:
        raise ValueError(f"data.val_fraction={fraction} must lie between 0 and 1, such as 0.2")
    by_hash = sorted(range(len(names)), key=lambda i: hashlib.sha256(os.fsencode(names[i])).digest())
    return by_hash[: num_held_out(len(names), fraction)]


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


def require_fold(folds: int | None, fold: int) -> None:
    """Raises ValueError for a fold that there is not."""
    if folds is None:
        if fold:
            raise ValueError(f"data.fold={fold} needs the number of folds beside it: data.folds=5")
    elif folds < 2:
        raise ValueError(f"data.folds={folds} must be 2 or more; null leaves the split of the data set")
    elif not 0 <= fold < folds:
        raise ValueError(f"data.fold={fold} must be 0 to {folds - 1}: data.folds={folds}")


def numbers_of(only: Sequence[str | int] | None, names: Sequence[str]) -> list[int]:
    """The numbers of the classes to use, in the order of the set; all for None. Raises ValueError.

    >>> numbers_of(["dog", "cat"], ["cat", "cow", "dog"]), numbers_of(None, ["cat", "cow"])
    ([0, 2], [0, 1])
    """
    if only is None:
        return list(range(len(names)))
    wanted = Counter(map(str, only))  # a class may be named 3
    if wrong := [name for name in wanted if name not in names]:
        raise ValueError(f"data.only_classes={quoted(wrong, 5)}: no such class; there are {quoted(list(names), 20)}")
    if twice := [name for name, times in wanted.items() if times > 1]:
        raise ValueError(f"data.only_classes names {quoted(twice, 5)} twice")
    if len(wanted) < 2:
        raise ValueError(f"data.only_classes=[{quoted(list(wanted))}] must name two classes or more")
    return [number for number, name in enumerate(names) if name in wanted]


@dataclass(frozen=True)
class Fold:
    """One of the parts that training images are cut into: the one to validate on."""

    folds: int
    number: int

    def mask(self, labels: NDArray[np.int64], groups: Sequence[str] | None = None) -> NDArray[np.bool_]:
        """(N,): whether a sample is in it."""
        return folds_of(labels, self.folds, groups) == self.number

    def counts(self, counts: Sequence[int], groups: Sequence[str] | None = None) -> list[int]:
        """Samples of each class in it; `counts` are those of the whole set, which is sorted by class."""
        if groups is None and sum(counts) >= self.folds:
            return fold_counts(counts, folds=self.folds, fold=self.number)
        labels = np.repeat(np.arange(len(counts)), counts)
        return [int(count) for count in np.bincount(labels[self.mask(labels, groups)], minlength=len(counts))]


def fold_counts(counts: Sequence[int], *, folds: int, fold: int) -> list[int]:
    """How many samples of each class are in a fold: what `folds_of` gives, from the size of each class alone.

    >>> [fold_counts([4, 5], folds=3, fold=k) for k in range(3)]
    [[2, 1], [1, 2], [1, 2]]
    """
    found, start = [], 0
    for count in counts:
        found.append(len(range(start + (fold - start) % folds, start + count, folds)))
        start += count
    return found


def folds_of(labels: NDArray[np.int64], folds: int, groups: Sequence[str] | None = None) -> NDArray[np.int64]:
    """(N,): the fold of each sample. Folds, and the parts of each class in them, differ by one sample at most.

    Samples of one group, where there are groups, are in one fold; classes are then balanced as well as groups allow.

    Args:
        labels: (N,) of 0, 1, ...
        groups: the group of each sample.

    Raises ValueError for fewer groups than folds.
    """
    from plainloop.system.rng import SPLIT, fold

    if groups is not None:
        return _of_groups(labels, folds, groups)
    if len(labels) < folds:
        raise ValueError(f"data.folds={folds} needs as many training images; there are {len(labels)}")
    drawn = [
        np.random.default_rng(fold(SPLIT, label, 3)).permutation(members)
        for label, members in enumerate(members_of_each(labels))
    ]
    found = np.empty(len(labels), np.int64)
    found[np.concatenate(drawn)] = np.arange(len(labels)) % folds
    return found


def _of_groups(labels: NDArray[np.int64], folds: int, groups: Sequence[str]) -> NDArray[np.int64]:
    """Large groups first, each into the fold that has least of its classes."""
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"data.folds={folds} needs as many groups; data.group_column has {len(names)}")
    in_group = np.zeros((len(names), labels.max() + 1))
    np.add.at(in_group, (group_of, labels), 1)
    totals = np.maximum(in_group.sum(0), 1)
    in_fold, chosen = np.zeros((folds, len(totals))), np.empty(len(names), np.int64)
    for group in np.argsort(-in_group.sum(1), kind="stable"):
        # What the sum of squares of all folds' shares of each class grows by; then the smallest fold.
        growth = (in_fold * in_group[group] / totals**2).sum(1)
        chosen[group] = np.lexsort((in_fold.sum(1), growth.round(12)))[0]
        in_fold[chosen[group]] += in_group[group]
    found: NDArray[np.int64] = chosen[group_of]
    return found
