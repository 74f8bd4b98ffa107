"""The order of the data is a function of (seed, step)."""

import itertools
import time

import numpy as np
import pytest

from plainloop.data.loading.sampler import Shard, eval_rows, permutation, slice_of_train, step_rows, steps_per_epoch
from plainloop.data.loading.workers import TrainKeys
from plainloop.errors import BadData
from plainloop.system.rng import ORDER, fold

ALONE = Shard(0, 1)


def stream(start, stop, *, shard=ALONE, rows=step_rows, num_samples=53, batch_size=12, seed=3):
    return [rows(s, num_samples=num_samples, batch_size=batch_size, seed=seed, shard=shard) for s in range(start, stop)]


def same(one, other):
    return len(one) == len(other) and all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(one, other))


@pytest.mark.parametrize("start", range(13))
def test_starting_later_gives_the_same_steps(start):
    assert same(stream(0, 13)[start:], stream(start, 13))


def test_an_order_with_a_memory_is_caught_starting_later():
    class Shuffled:
        """Draws on from one generator, as a plain shuffling loader does."""

        def __init__(self):
            self.generator = np.random.default_rng(3)

        def __call__(self, step, *, num_samples, batch_size, seed, shard):
            return 0, self.generator.permutation(num_samples)[:batch_size]

    assert not same(stream(0, 13, rows=Shuffled())[5:], stream(5, 13, rows=Shuffled()))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_ranks_share_out_the_global_batch(world_size):
    parts = [stream(0, 9, shard=Shard(rank, world_size)) for rank in range(world_size)]
    joined = [(step[0][0], np.concatenate([rows for _, rows in step])) for step in zip(*parts)]
    assert same(joined, stream(0, 9))


def test_ranks_that_shuffle_for_themselves_are_caught():
    parts = [stream(0, 9, shard=Shard(rank, 2), seed=rank) for rank in range(2)]
    joined = [(step[0][0], np.concatenate([rows for _, rows in step])) for step in zip(*parts)]
    assert not same(joined, stream(0, 9))


@pytest.mark.parametrize(("num_samples", "batch_size"), [(53, 12), (48, 12), (12, 12), (5, 1)])
def test_every_epoch_sees_each_sample_at_most_once(num_samples, batch_size):
    steps = steps_per_epoch(num_samples, batch_size)
    for epoch in range(3):
        seen = stream(epoch * steps, (epoch + 1) * steps, num_samples=num_samples, batch_size=batch_size)
        samples = np.concatenate([rows for _, rows in seen])
        assert {number for number, _ in seen} == {epoch}
        assert len(np.unique(samples)) == len(samples) == steps * batch_size


def test_epochs_and_seeds_have_their_own_order():
    orders = [permutation(1000, seed=seed, epoch=epoch).tobytes() for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_seeking_to_step_a_million_reads_nothing_and_takes_no_time():
    step_rows(0, num_samples=60_000, batch_size=256, seed=0, shard=ALONE)
    since = time.process_time()
    keys = iter(TrainKeys(10**6, 10**6 + 1, num_samples=60_000, batch_size=256, seed=0, shard=ALONE))
    assert len(next(keys)) == 256
    assert time.process_time() - since < 0.1  # seconds of CPU; a replay of the epochs before takes several


def test_no_two_of_ten_thousand_adjacent_keys_share_a_seed():
    keys = set(itertools.product((ORDER, 2), range(5), range(10), range(100)))
    assert len({fold(*key) for key in keys}) == len(keys) == 10_000
    assert len({sum(key) for key in keys}) < len(keys)  # the control: a sum of the key's parts


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 12])
def test_evaluation_sees_every_sample_once_over_all_ranks(world_size):
    shares = [list(eval_rows(10, rank_batch=2, shard=Shard(rank, world_size))) for rank in range(world_size)]
    assert sorted(index for share in shares for rows in share for index in rows) == list(range(10))


def test_the_measured_slice_of_train_is_fixed_and_not_larger_than_train():
    assert np.array_equal(slice_of_train(100, 7), slice_of_train(100, 7))
    assert len(np.unique(slice_of_train(100, 7))) == 7
    assert slice_of_train(5, 2000).tolist() == [0, 1, 2, 3, 4]


def test_a_batch_larger_than_the_data_is_refused_with_what_to_type():
    with pytest.raises(BadData, match=r"data.batch_size=64 .* 53 training samples; type data.batch_size=53 or less"):
        steps_per_epoch(53, 64)


def test_a_batch_that_does_not_divide_names_the_nearest_that_do():
    with pytest.raises(ValueError, match=r"data.batch_size=10 .* 4 ranks; type data.batch_size=8 or 12"):
        Shard(0, 4).rows_of(10)
    with pytest.raises(ValueError, match=r"type data.batch_size=4$"):
        Shard(0, 4).rows_of(3)
