"""Which samples a step sees: a pure function of (seed, step), so a resume starts at any step without reading data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plainloop.distributed import collectives
from plainloop.errors import BadData
from plainloop.system.rng import ORDER, SPLIT, fold

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """Which of equally large parts of every global batch is this rank's."""

    rank: int
    world_size: int

    @classmethod
    def here(cls) -> Shard:
        return cls(collectives.rank(), collectives.world_size())

    def rows_of(self, batch_size: int) -> slice:
        """This rank's rows of a global batch: contiguous, and equally many on every rank.

        Raises ValueError when the batch does not divide among the ranks.
        """
        rows, left = divmod(batch_size, self.world_size)
        if left:
            near = [size for size in (rows * self.world_size, (rows + 1) * self.world_size) if size]
            raise ValueError(
                f"data.batch_size={batch_size} (global) must be divisible by the {self.world_size} ranks; "
                f"type data.batch_size={' or '.join(map(str, near))}"
            )
        return slice(self.rank * rows, (self.rank + 1) * rows)


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Whole global batches in one pass; what is left of the permutation is dropped.

    >>> steps_per_epoch(800, 8), steps_per_epoch(807, 8)
    (100, 100)

    Raises BadData when there is not even one.
    """
    if batch_size > num_samples:
        raise BadData(
            f"data.batch_size={batch_size} (global) is more than the {num_samples} training samples; "
            f"type data.batch_size={num_samples} or less"
        )
    return num_samples // batch_size


@lru_cache(maxsize=2)  # the current epoch, and the one that prefetching has reached
def permutation(num_samples: int, *, seed: int, epoch: int) -> Indices:
    """The order of an epoch: (num_samples,), not writable."""
    order = np.random.default_rng(fold(ORDER, seed, epoch)).permutation(num_samples)
    order.flags.writeable = False
    return order


def epoch_rows(num_samples: int, *, batch_size: int, seed: int, epoch: int, shard: Shard) -> Indices:
    """This rank's samples in an epoch: (steps per epoch, rank's batch size), one row a step."""
    steps = steps_per_epoch(num_samples, batch_size)
    order = permutation(num_samples, seed=seed, epoch=epoch)
    return order[: steps * batch_size].reshape(steps, batch_size)[:, shard.rows_of(batch_size)]


def step_rows(step: int, *, num_samples: int, batch_size: int, seed: int, shard: Shard) -> tuple[int, Indices]:
    """The epoch of a step, and this rank's samples in it: (rank's batch size,)."""
    epoch, position = divmod(step, steps_per_epoch(num_samples, batch_size))
    return epoch, epoch_rows(num_samples, batch_size=batch_size, seed=seed, epoch=epoch, shard=shard)[position]


def eval_rows(num_samples: int, *, rank_batch: int, shard: Shard) -> Iterator[Indices]:
    """This rank's share of a split in batches: every sample once over all ranks, so ranks may differ by one."""
    mine = np.arange(shard.rank, num_samples, shard.world_size)
    for first in range(0, len(mine), rank_batch):
        yield mine[first : first + rank_batch]


def slice_of_train(num_samples: int, size: int) -> Indices:
    """Training samples to measure without augmentation: the same for every seed, in rising order."""
    return np.sort(np.random.default_rng(fold(SPLIT, num_samples)).permutation(num_samples)[:size])
