"""How far a metric could be off because the samples are these and not others: the bootstrap, in one pass.

Each of many resampled test sets takes every sample as often as a Poisson variable with the mean 1 says (Chamandy and
others, Estimating Uncertainty for Massive Data Streams, 2012). How often follows from the sample's index alone: samples
need not be kept, batches and ranks do not matter, and two runs are resampled alike, so that the interval of their
difference is a paired one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_SETS = 1000  # resampled test sets
FEW_SETS = 200  # the same for metrics that are no sums: each set is measured as a whole
MOST_SUMS = 2**17  # of one sample; the totals of all sets then take 1 GB
CONFIDENCE = 0.95

Values = Callable[[Tensor], Mapping[str, float]]

_CHUNK = 2**20  # weights made at once
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
# Of the counts 0, 1, 2, ...: the 64-bit number below which a draw gives that count or fewer.
_BELOW = np.array(
    [min(2**64 - 1, int(2**64 * sum(math.exp(-1) / math.factorial(k) for k in range(n + 1)))) for n in range(20)],
    dtype=np.uint64,
)


def counts(index: NDArray[np.int64], num_sets: int = NUM_SETS) -> NDArray[np.float64]:
    """(num_sets, B): how often each sample is in each resampled set; always the same for an index."""
    of_sample = _mixed(index.astype(np.uint64) + np.uint64(1))
    of_set = np.arange(num_sets, dtype=np.uint64) * _ODD[0]
    drawn = _mixed(of_sample[None, :] + of_set[:, None])
    found: NDArray[np.float64] = np.searchsorted(_BELOW, drawn, side="right").astype(np.float64)
    return found


def _mixed(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last step of SplitMix64 (https://doi.org/10.1145/2660193.2660195): nearby numbers become unrelated ones."""
    number = number + _ODD[0]
    number = (number ^ (number >> np.uint64(30))) * _ODD[1]
    number = (number ^ (number >> np.uint64(27))) * _ODD[2]
    return number ^ (number >> np.uint64(31))


class Resampled:
    """The totals of all resampled sets."""

    def __init__(self, num_sets: int = NUM_SETS) -> None:
        self.num_sets = num_sets
        self._totals: Tensor | None = None  # (num_sets, K) float64

    def add(self, sums: Tensor, index: NDArray[np.int64]) -> None:
        """Takes the sums (B, K) of samples, float64 on the host, and their numbers (B,)."""
        if self._totals is None:
            self._totals = sums.new_zeros(self.num_sets, sums.shape[1])
        rows = max(1, _CHUNK // self.num_sets)
        for part, numbers in zip(sums.split(rows), np.split(index, range(rows, len(index), rows)), strict=True):
            used = part.any(0).nonzero()[:, 0]  # of a large confusion matrix one image meets a few places
            added = torch.from_numpy(counts(numbers, self.num_sets)) @ part[:, used]
            self._totals.index_add_(1, used, added)

    def values(self, values_of: Values) -> dict[str, NDArray[np.float64]]:
        """Each metric in each set, (num_sets,)."""
        if self._totals is None:
            return {}
        found = [values_of(totals) for totals in self._totals]
        return {name: np.array([values[name] for values in found]) for name in found[0]}


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Between which the middle 95 % of a metric lie over the resampled sets; NaN where it is in no set a number."""
    numbers = values[np.isfinite(values)]
    if not len(numbers):
        return math.nan, math.nan
    low, high = np.quantile(numbers, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def intervals(values: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    return {name: interval(of_sets) for name, of_sets in values.items()}


def difference(
    first: Mapping[str, NDArray[np.float64]], second: Mapping[str, NDArray[np.float64]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The intervals of second - first, for two that were measured on the same samples."""
    return {name: interval(second[name] - first[name]) for name in names if name in first and name in second}
