"""The order of the data is a function of (seed, step)."""

import hashlib
import itertools
import time

import numpy as np
import pytest

from plainloop.data.loading.sampler import (
    Order,
    Shard,
    epoch_rows,
    eval_rows,
    permutation,
    slice_of_train,
    step_keys,
    steps_per_epoch,
)
from plainloop.data.loading.workers import TrainKeys
from plainloop.errors import BadData
from plainloop.system.rng import ORDER, fold

ALONE = Shard(0, 1)


LABELS = np.repeat([0, 1, 3], [40, 10, 3])  # class 2 has no samples
TALL = np.arange(53) % 3 == 0
ORDERS = {
    "shuffled": Order(53),
    "balanced": Order(53, LABELS),
    "repeated": Order(53, repeats=3),
    "both": Order(53, LABELS, repeats=4),
    "by shape": Order(53, tall=TALL),
    "by shape, repeated": Order(53, repeats=3, tall=TALL),
}
# Of keys that runs have drawn before batches could be of like shapes: they resume with the same ones.
DIGESTS = {"shuffled": "8e3367ee", "balanced": "ee441d54", "repeated": "17275872", "both": "b00801b4"}
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


def stream(start, stop, *, shard=ALONE, keys=step_keys, order=ORDERS["shuffled"], batch_size=12, seed=3):
    return [keys(step, order=order, batch_size=batch_size, seed=seed, shard=shard) for step in range(start, stop)]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def samples_of(order, epoch, *, batch_size=1, seed=3):
    return epoch_rows(order, batch_size=batch_size, seed=seed, epoch=epoch, shard=ALONE)


@every_order
@pytest.mark.parametrize("start", range(13))
def test_starting_later_gives_the_same_steps(start, order):
    assert stream(0, 13, order=order)[start:] == stream(start, 13, order=order)


def test_an_order_with_a_memory_is_caught_starting_later():
    class Shuffled:
        """Draws on from one generator, as a plain shuffling loader does."""

        def __init__(self):
            self.generator = np.random.default_rng(3)

        def __call__(self, step, *, order, batch_size, seed, shard):
            return [(0, index) for index in self.generator.permutation(order.num_samples)[:batch_size].tolist()]

    assert stream(0, 13, keys=Shuffled())[5:] != stream(5, 13, keys=Shuffled())


@every_order
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_ranks_share_out_the_global_batch(world_size, order):
    parts = [stream(0, 9, order=order, shard=Shard(rank, world_size)) for rank in range(world_size)]
    assert [joined(step) for step in zip(*parts)] == stream(0, 9, order=order)


def test_ranks_that_shuffle_for_themselves_are_caught():
    parts = [stream(0, 9, shard=Shard(rank, 2), seed=rank) for rank in range(2)]
    assert [joined(step) for step in zip(*parts)] != stream(0, 9)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(53, 12), (48, 12), (12, 12), (5, 1)])
def test_every_epoch_sees_each_sample_at_most_once(num_samples, batch_size):
    steps = steps_per_epoch(num_samples, batch_size)
    for epoch in range(3):
        seen = joined(stream(epoch * steps, (epoch + 1) * steps, order=Order(num_samples), batch_size=batch_size))
        assert {number for number, _ in seen} == {epoch}
        assert len(set(seen)) == len(seen) == steps * batch_size


@every_order
def test_epochs_and_seeds_have_their_own_order(order):
    orders = [samples_of(order, epoch, seed=seed).tobytes() for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_balanced_epochs_draw_each_class_and_in_it_each_sample_equally_often():
    for epoch in range(5):
        samples = samples_of(ORDERS["balanced"], epoch).ravel()
        assert sorted(np.bincount(LABELS[samples]).tolist()) == [0, 17, 18, 18]
        for label in (0, 1, 3):
            times = np.bincount(samples, minlength=53)[label == LABELS]
            assert times.max() - times.min() <= 1


def test_a_shuffled_epoch_is_not_balanced():
    assert np.bincount(LABELS[samples_of(ORDERS["shuffled"], 0).ravel()]).tolist() == [40, 10, 0, 3]


def test_over_epochs_a_balanced_order_draws_every_sample_by_the_inverse_frequency_of_its_class():
    epochs = 300
    drawn = sum(np.bincount(samples_of(ORDERS["balanced"], epoch).ravel(), minlength=53) for epoch in range(epochs))
    expected = 53 / 3 / np.bincount(LABELS)[LABELS]  # times an epoch
    # Of each class 17 or 18 are drawn; a sample of the largest is drawn or not, with a deviation of at most 0.5.
    assert np.abs(drawn / epochs - expected).max() < 5 * 0.5 / np.sqrt(epochs)


@pytest.mark.parametrize("name", ["repeated", "both"])
def test_a_repeated_sample_is_that_often_in_its_batch_and_never_drawn_alike(name):
    order = ORDERS[name]
    for batch in stream(0, 12, order=order, batch_size=12):
        counts = np.bincount([index for _, index in batch])
        assert set(counts[counts > 0] % order.repeats) == {0}
        assert len(set(batch)) == 12


def test_an_epoch_of_repeats_has_as_many_draws_of_fewer_samples():
    samples = samples_of(ORDERS["repeated"], 0)
    assert (len(samples), len(np.unique(samples))) == (53, 18)


def test_copies_are_spread_over_the_ranks():
    parts = [stream(0, 4, order=ORDERS["repeated"], shard=Shard(rank, 3)) for rank in range(3)]
    first, second, third = ([[index for _, index in step] for step in part] for part in parts)
    assert first == second == third


def test_keys_without_repeats_are_those_of_the_runs_before_there_were_any():
    assert stream(5, 6) == [[(1, i) for i in permutation(53, seed=3, epoch=1)[12:24].tolist()]]


@pytest.mark.parametrize("name", DIGESTS)
def test_an_order_without_shapes_never_changes(name):
    keys = repr(stream(0, 9, order=ORDERS[name]))
    assert hashlib.sha256(keys.encode()).hexdigest()[:8] == DIGESTS[name]


def kinds(order, *, batch_size):
    """How many batches of an epoch are wide, tall and mixed."""
    steps = steps_per_epoch(len(TALL), batch_size)
    shares = [TALL[[key[1] for key in keys]].mean() for keys in stream(0, steps, order=order, batch_size=batch_size)]
    return [shares.count(0), shares.count(1), sum(0 < share < 1 for share in shares)]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 12, 53])
@pytest.mark.parametrize("name", ["by shape", "by shape, repeated"])
def test_all_batches_but_one_are_wide_or_tall_and_their_keys_say_it(name, batch_size):
    wide, tall, mixed = kinds(ORDERS[name], batch_size=batch_size)
    assert mixed <= 1
    assert (wide and tall) or batch_size > TALL.sum()
    for keys in stream(0, wide + tall + mixed, order=ORDERS[name], batch_size=batch_size):
        share = TALL[[key[1] for key in keys]].mean()
        assert {key[2] for key in keys} == {int(share > 0.5)}


def test_a_shuffled_order_mixes_shapes():
    assert kinds(ORDERS["shuffled"], batch_size=4)[2] > 1


@pytest.mark.parametrize("tall", [TALL, np.zeros(53, bool), np.ones(53, bool), np.arange(53) == 7])
def test_an_epoch_by_shape_has_the_samples_that_it_has_otherwise(tall):
    """So that a few tall images among wide ones are learned from as often as those."""
    order = Order(53, tall=tall)
    for epoch in range(4):
        by_shape, shuffled = (samples_of(one, epoch, batch_size=6).ravel() for one in (order, Order(53)))
        assert sorted(by_shape) == sorted(shuffled) and by_shape.tolist() != shuffled.tolist()


def test_seeking_to_step_a_million_reads_nothing_and_takes_no_time():
    order = Order(60_000, np.arange(60_000) % 10)
    step_keys(0, order=order, batch_size=256, seed=0, shard=ALONE)
    since = time.process_time()
    keys = iter(TrainKeys(10**6, 10**6 + 1, order=order, batch_size=256, seed=0, shard=ALONE))
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
