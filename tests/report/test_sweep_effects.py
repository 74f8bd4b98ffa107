"""What `compare` says of made-up sweeps whose true effect is known."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from statistics import NormalDist, fmean, stdev

import pytest

from plainloop.report.sweep.effects import Factor, factor_of, interval, t_quantile
from plainloop.report.sweep.jobs import Job, Metric

METRIC = Metric("val/top1", "best", smaller=False)
SEEDS, RATES = 3, 4
DRAWS = 1000
BETWEEN_SEEDS, INTERACTION, NOISE = 0.02, 0.01, 0.002  # of the made-up accuracies


def job(seed: int | str, score: float | None, **values: str) -> Job:
    results = {} if score is None else {"best val/top1": score}
    state = "FAILED" if score is None else "DONE"
    return Job("0", {**values, "seed": str(seed)}, state, Path(), results)


def made_up(draw: random.Random, *, effect: float) -> list[Job]:
    """A grid of two augmentations and four rates for each seed.

    A seed is good or bad for all its jobs, and makes the effect larger or smaller, at all rates alike.
    """
    jobs = []
    for seed in range(SEEDS):
        luck, own = draw.gauss(0, BETWEEN_SEEDS), draw.gauss(effect, INTERACTION)
        for augment, rate in itertools.product(("none", "flip"), range(RATES)):
            score = 0.8 + luck + 0.01 * rate + (own if augment == "flip" else 0) + draw.gauss(0, NOISE)
            jobs.append(job(seed, score, augment=augment, lr=str(rate)))
    return jobs


def sweeps(effect: float) -> list[list[Job]]:
    return [made_up(random.Random(number), effect=effect) for number in range(DRAWS)]


def of_augment(jobs: list[Job], baseline: str | None = None) -> Factor:
    return factor_of(jobs, "augment", METRIC, baseline)


def test_the_interval_covers_the_true_effect_in_95_of_100_sweeps() -> None:
    covered = 0
    for jobs in sweeps(effect=0.01):
        (found,) = of_augment(jobs).effects
        assert found.low is not None and found.high is not None
        assert (found.num_units, found.num_settings) == (SEEDS, RATES)
        covered += found.low <= 0.01 <= found.high
    assert 930 <= covered <= 970  # three standard deviations of a share of 1,000 are 2.1 points


def test_where_nothing_changes_one_sweep_in_twenty_says_that_it_does() -> None:
    verdicts = [of_augment(jobs).effects[0].verdict(METRIC) for jobs in sweeps(effect=0.0)]
    false = sum(verdict != "not distinguishable with n = 3" for verdict in verdicts)
    assert 30 <= false <= 70


def test_pooled_pairs_and_resampled_seeds_would_cover_it_far_less_often() -> None:
    pooled = resampled = 0
    for number, jobs in enumerate(sweeps(effect=0.01)):
        scores = {
            (one.values["augment"], one.values["lr"], one.values["seed"]): one.results["best val/top1"] for one in jobs
        }
        pairs = {key[1:]: scores["flip", *key[1:]] - score for key, score in scores.items() if key[0] == "none"}
        low, high = interval(list(pairs.values()))
        assert low is not None and high is not None
        pooled += low <= 0.01 <= high
        per_seed = [fmean(value for key, value in pairs.items() if key[1] == str(seed)) for seed in range(SEEDS)]
        draw = random.Random(number)
        means = sorted(fmean(draw.choices(per_seed, k=SEEDS)) for _ in range(200))
        resampled += means[4] <= 0.01 <= means[194]
    assert pooled < 800
    assert resampled < 850


@pytest.mark.parametrize("missing", [0, 7, 23], ids=lambda number: f"job {number} failed")
def test_a_missing_pair_is_named_and_the_seeds_keep_the_same_settings(missing: int) -> None:
    jobs = made_up(random.Random(1), effect=0.01)
    values = jobs[missing].values
    jobs[missing] = job(values["seed"], None, augment=values["augment"], lr=values["lr"])
    (found,) = of_augment(jobs).effects
    assert found.missing == (f"lr={values['lr']} seed={values['seed']}",)
    assert (found.num_units, found.num_settings, found.pairs) == (3, 3, (9, 12))


def test_without_any_setting_that_all_seeds_have_all_pairs_count() -> None:
    jobs = [job(seed, 0.5, augment=augment, lr=str(seed)) for seed in range(3) for augment in ("none", "flip")]
    (found,) = of_augment(jobs).effects
    assert (found.mean, found.num_units, found.pairs) == (0.0, 3, (3, 3))


def test_a_value_without_any_pair_says_so() -> None:
    (found,) = of_augment([job(0, 0.5, augment="none"), job(1, 0.6, augment="flip")]).effects
    assert found.mean is None
    assert found.verdict(METRIC) == "no pair of finished jobs"
    assert len(found.missing) == 2


def test_one_seed_says_nothing_about_luck() -> None:
    (found,) = of_augment([job(0, 0.5, augment="none"), job(0, 0.9, augment="flip")]).effects
    assert (round(found.mean or 0, 9), found.low) == (0.4, None)
    assert found.verdict(METRIC) == "one seed says nothing about luck"


def test_the_baseline_is_what_switches_off_or_what_is_asked_for_else_what_was_typed_first() -> None:
    jobs = [job(seed, 0.5, augment=one) for one in ("flip", "none", "cutmix") for seed in range(2)]
    assert of_augment(jobs).baseline == "none"
    assert of_augment(jobs, "cutmix").baseline == "cutmix"
    assert of_augment([one for one in jobs if one.values["augment"] != "none"]).baseline == "flip"
    with pytest.raises(ValueError, match="mixup is no value of augment"):
        of_augment(jobs, "mixup")


def test_where_smaller_is_better_a_fall_is_better() -> None:
    smaller = Metric("val/top1", "best", smaller=True)
    jobs = [
        job(seed, 0.5 - (one == "flip") * (0.1 + seed / 1000), augment=one)
        for one in ("none", "flip")
        for seed in range(3)
    ]
    assert of_augment(jobs).effects[0].verdict(METRIC) == "worse"
    assert factor_of(jobs, "augment", smaller).effects[0].verdict(smaller) == "better"


def test_folds_count_as_seeds_do_and_folds_of_a_seed_are_averaged() -> None:
    def of(seed: int, fold: int, augment: str, score: float) -> Job:
        return Job(
            "0",
            {"augment": augment, "data.fold": str(fold), "seed": str(seed)},
            "DONE",
            Path(),
            {"best val/top1": score},
        )

    folds = [
        of(0, fold, one, 0.5 + fold / 10 + (one == "flip") * fold / 100)
        for one in ("none", "flip")
        for fold in range(5)
    ]
    (found,) = of_augment(folds).effects
    assert (of_augment(folds).unit, found.num_units, found.num_settings) == ("data.fold", 5, 1)
    both = [of(seed, fold, one, 0.5) for one in ("none", "flip") for fold in range(5) for seed in range(2)]
    (found,) = of_augment(both).effects
    assert (of_augment(both).unit, found.num_units, found.num_settings) == ("seed", 2, 5)


def test_the_quantiles_are_those_of_tables_and_near_the_normal_ones_for_many() -> None:
    tables = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 29: 2.0452}
    assert all(abs(t_quantile(0.975, degrees) - value) < 1e-4 for degrees, value in tables.items())
    assert math.isclose(t_quantile(0.975, 100_000), NormalDist().inv_cdf(0.975), rel_tol=1e-4)
    low, high = interval([1.0, 2.0, 4.0])
    assert low is not None and high is not None
    assert math.isclose(high - low, 2 * 4.302653 * stdev([1.0, 2.0, 4.0]) / math.sqrt(3), rel_tol=1e-6)
