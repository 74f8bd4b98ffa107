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
Flags = NDArray[np.bool_]
# (epoch, index): with the seed, all that a sample's draws depend on. In training with wide and tall batches a third
# number says whether this batch is tall. See `step_keys`.
Key = tuple[int, ...]


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


@dataclass(frozen=True, eq=False)  # hashed by identity, for the cache
class Order:
    """What each epoch draws: as many samples as there are, whatever they are, so that an epoch keeps its length.

    Args:
        labels: (num_samples,). Every class is drawn equally often, and in a class every sample, up to one: a sample
            counts by the inverse frequency of its class. None: each sample once.
        repeats: how often each sample that is drawn is in the batch (https://arxiv.org/abs/1901.09335). An epoch then
            has 1 / repeats of the samples, as in DeiT and timm. Copies are spread over the ranks.
        tall: (num_samples,), the images that are higher than wide. A batch then has images of one of both kinds. None:
            batches are of any images.
    """

    num_samples: int
    labels: Indices | None = None
    repeats: int = 1
    tall: Flags | None = None

    def drawn(self, *, seed: int, epoch: int) -> Indices:
        """(num_samples,): the samples of an epoch in order; copies of one follow each other."""
        if self.labels is None and self.repeats == 1:
            return permutation(self.num_samples, seed=seed, epoch=epoch)
        number = -(-self.num_samples // self.repeats)
        if self.labels is None:
            chosen = permutation(self.num_samples, seed=seed, epoch=epoch)[:number]
        else:
            chosen = balanced(self.labels, number, np.random.default_rng(fold(ORDER, seed, epoch)))
        return np.repeat(chosen, self.repeats)[: self.num_samples]


def order_of(labels: Indices, *, sampler: str, repeats: int, tall: Flags | None = None) -> Order:
    """The order that `data.sampler` and `data.repeats` ask for; labels (N,) of the training samples."""
    return Order(len(labels), labels if sampler == "class_balanced" else None, repeats, tall)


@lru_cache(maxsize=2)  # the current epoch, and the one that prefetching has reached
def permutation(num_samples: int, *, seed: int, epoch: int) -> Indices:
    """Each sample once: (num_samples,), not writable."""
    order = np.random.default_rng(fold(ORDER, seed, epoch)).permutation(num_samples)
    order.flags.writeable = False
    return order


def balanced(labels: Indices, number: int, generator: np.random.Generator) -> Indices:
    """(number,): samples in random order, every class equally often, and in a class every sample, up to one.

    >>> drawn = balanced(np.array([0, 0, 0, 0, 2]), 6, np.random.default_rng(0))
    >>> sorted(drawn[drawn == 4].tolist()), len(set(drawn.tolist()))
    ([4, 4, 4], 4)
    """
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]  # a class without samples cannot be drawn
    quotas = np.full(len(sizes), number // len(sizes))
    quotas[generator.permutation(len(sizes))[: number % len(sizes)]] += 1
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a sample in its class
    times = np.repeat(quotas // sizes, sizes) + (place < np.repeat(quotas % sizes, sizes))
    return generator.permutation(np.repeat(by_class, times))


@lru_cache(maxsize=2)
def whole_epoch(order: Order, *, batch_size: int, seed: int, epoch: int) -> tuple[Indices, Indices]:
    """Samples, and how often each was drawn before in the epoch: (steps per epoch, batch_size) each."""
    steps = steps_per_epoch(order.num_samples, batch_size)
    samples = order.drawn(seed=seed, epoch=epoch)[: steps * batch_size]
    if order.tall is not None:
        draw = np.random.default_rng(fold(ORDER, seed, epoch, batch_size))
        samples = by_shape(samples, order.tall, batch_size, draw)
    if order.labels is None and order.repeats == 1:
        return samples.reshape(steps, batch_size), np.broadcast_to(np.int64(0), (steps, batch_size))
    spread = np.argsort(np.arange(batch_size) % order.repeats, kind="stable")  # all first copies, then all second ones
    return samples.reshape(steps, batch_size)[:, spread], earlier(samples).reshape(steps, batch_size)[:, spread]


def by_shape(samples: Indices, tall: Flags, batch_size: int, draw: np.random.Generator) -> Indices:
    """The same samples, in batches of wide images and batches of tall ones, in random order. One batch at most is
    mixed: what is left of both kinds.

    >>> wide_or_tall = np.array([True, False, False, True, True, False])
    >>> wide_or_tall[by_shape(np.arange(6), wide_or_tall, 2, np.random.default_rng(0))].reshape(3, 2).tolist()
    [[True, False], [False, False], [True, True]]
    """
    is_tall = tall[samples]
    place = np.where(is_tall, np.cumsum(is_tall), np.cumsum(~is_tall)) - 1  # of a sample among those of its kind
    in_whole = np.bincount(is_tall, minlength=2) // batch_size * batch_size
    left = place >= in_whole[is_tall.astype(np.int64)]
    parts = (samples[~left & ~is_tall], samples[~left & is_tall], samples[left])
    return draw.permutation(np.concatenate(parts).reshape(-1, batch_size)).ravel()


def earlier(values: Indices) -> Indices:
    """How often each value has come before.

    >>> earlier(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(values, kind="stable")
    grouped, place = values[order], np.arange(len(values))
    starts = np.maximum.accumulate(np.where(np.diff(grouped, prepend=-1) != 0, place, 0))
    counts = np.empty_like(place)
    counts[order] = place - starts
    return counts


def epoch_rows(order: Order, *, batch_size: int, seed: int, epoch: int, shard: Shard) -> Indices:
    """This rank's samples in an epoch: (steps per epoch, rank's batch size), one row a step."""
    samples, _ = whole_epoch(order, batch_size=batch_size, seed=seed, epoch=epoch)
    return samples[:, shard.rows_of(batch_size)]


def step_keys(step: int, *, order: Order, batch_size: int, seed: int, shard: Shard) -> list[Key]:
    """This rank's samples in a step, each with the number that makes its draws its own: the epoch at its first time.

    With `order.tall` also whether most of the global batch is tall: all of its images then get that shape.
    """
    epoch, position = divmod(step, steps_per_epoch(order.num_samples, batch_size))
    parts = whole_epoch(order, batch_size=batch_size, seed=seed, epoch=epoch)
    samples, before = (part[position, shard.rows_of(batch_size)].tolist() for part in parts)
    shape = () if order.tall is None else (int(2 * order.tall[parts[0][position]].sum() > batch_size),)
    return [
        (fold(epoch, times) if times else epoch, index, *shape) for index, times in zip(samples, before, strict=True)
    ]


def eval_rows(num_samples: int, *, rank_batch: int, shard: Shard) -> Iterator[Indices]:
    """This rank's share of a split in batches: every sample once over all ranks, so ranks may differ by one."""
    mine = np.arange(shard.rank, num_samples, shard.world_size)
    for first in range(0, len(mine), rank_batch):
        yield mine[first : first + rank_batch]


def slice_of_train(num_samples: int, size: int) -> Indices:
    """Training samples to measure without augmentation: the same for every seed, in rising order."""
    return np.sort(np.random.default_rng(fold(SPLIT, num_samples)).permutation(num_samples)[:size])
