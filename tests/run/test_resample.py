"""95 % intervals cover the truth in 95 of 100 test sets; what is resampled follows from the samples' numbers alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from plainloop.run.trained.resample import Resampled, counts, difference, interval, intervals
from plainloop.tasks.classification import Classification

SAMPLES, TEST_SETS = 400, 1000


def accuracies(sums: Tensor) -> dict[str, float]:
    return {"top1": float(sums[0] / sums[1])}


def test_a_sample_is_drawn_as_a_poisson_variable_of_mean_one_is() -> None:
    drawn = counts(np.arange(2000), 500).ravel()
    for number in range(5):  # the law of a million draws: 5 standard deviations
        share = math.exp(-1) / math.factorial(number)
        assert abs((drawn == number).mean() - share) < 5 * math.sqrt(share * (1 - share) / drawn.size)
    table = counts(np.arange(300), 300)
    other_samples = np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]
    other_sets = np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]
    assert abs(other_samples) < 5 / math.sqrt(table.size) and abs(other_sets) < 5 / math.sqrt(table.size)


def test_batches_and_their_order_change_nothing() -> None:
    sums = torch.cat([(torch.rand(50, 1) < 0.7).double(), torch.ones(50, 1).double()], dim=1)
    index = np.random.default_rng(0).permutation(50)
    whole, parts = Resampled(), Resampled()
    whole.add(sums, index)
    for start in range(49, -1, -1):
        parts.add(sums[start : start + 1], index[start : start + 1])
    assert np.array_equal(whole.values(accuracies)["top1"], parts.values(accuracies)["top1"])


def test_a_metric_without_any_sample_has_no_interval() -> None:
    task = Classification(num_classes=3, class_names=list("abc"), per_class=True)
    logits, label = torch.eye(3)[[0, 1] * 20], torch.tensor([0, 1] * 20)
    resampled, metrics = Resampled(), task.metrics()
    resampled.add(metrics.sums(logits, {"label": label}), np.arange(40))
    found = intervals(resampled.values(metrics.values))
    assert found["top1"] == (1.0, 1.0)
    assert all(map(math.isnan, found["accuracy/c"]))
    assert all(map(math.isnan, interval(np.array([math.nan] * 5))))


# 1000 test sets of simulated predictions: two models, of which each is right on its own share of the samples, often on
# the same ones. All of them are resampled at once, as so many metrics of the same samples.


def shares_of(totals: Tensor) -> dict[str, float]:
    return {str(number): share for number, share in enumerate((totals[:-1] / totals[-1]).tolist())}


def covered(*, shrunk: float = 1.0) -> tuple[float, float]:
    """In which share of the test sets the interval of the first accuracy, and of the difference, holds the truth."""
    generator, limits = torch.Generator().manual_seed(0), torch.tensor([0.75, 0.79])
    hard, own = (torch.rand(SAMPLES, TEST_SETS, each, generator=generator) for each in (1, 2))
    right = (0.7 * hard + 0.3 * own < limits).double()
    hard, own = (torch.rand(4_000_000, each, generator=generator) for each in (1, 2))
    truth = (0.7 * hard + 0.3 * own < limits).double().mean(0)

    resampled = Resampled()
    ones = torch.ones(SAMPLES, 1, dtype=torch.float64)
    resampled.add(torch.cat([right.flatten(1), ones], dim=1), np.arange(SAMPLES))
    shares = resampled.values(shares_of)
    alone = paired = 0
    for number in range(0, 2 * TEST_SETS, 2):
        low, high = interval(shares[str(number)])
        alone += low <= truth[0] <= high
        low, high = difference({"top1": shares[str(number)]}, {"top1": shares[str(number + 1)]}, ["top1"])["top1"]
        middle, half = (low + high) / 2, shrunk * (high - low) / 2
        paired += middle - half <= truth[1] - truth[0] <= middle + half
    return alone / TEST_SETS, paired / TEST_SETS


def test_intervals_cover_the_truth_in_95_percent_of_1000_test_sets() -> None:
    alone, paired = covered()
    assert 0.93 <= alone <= 0.97
    assert 0.93 <= paired <= 0.97


def test_intervals_that_are_too_short_do_not_cover() -> None:
    assert covered(shrunk=0.7)[1] < 0.9
