"""Draws for the global batch have the distribution that they are named for, and each augmentation asks for the one that
its docstring states."""

import math

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from plainloop.augment import draws
from plainloop.augment.colour import color_jitter, gaussian_blur
from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.erasing import gridmask, hide_and_seek, random_erasing
from plainloop.augment.geometry import pad_crop, random_rotation
from plainloop.augment.per_sample import PerSample
from plainloop.system import rng
from tests.augment.batches import CPU, numbered

NUM = 20_000
BATCH = {"image": torch.zeros(1, 1, 1, 1).expand(NUM, 1, 8, 8)}
UNLIKELY = 1e-4  # of a p-value; the seed is fixed, so that a test passes always or never


@pytest.fixture(autouse=True)
def _seeded():
    rng.seed_step(3, 0, 0, CPU)


def test_uniform_draws_are_uniform():
    drawn = draws.uniform(BATCH, 2, low=-3.0, high=5.0)
    for column in drawn.unbind(1):
        assert stats.kstest(column, stats.uniform(-3, 8).cdf).pvalue > UNLIKELY
    assert abs(stats.spearmanr(*drawn.unbind(1)).statistic) < 4 / math.sqrt(NUM)


def test_another_distribution_would_be_noticed():
    assert stats.kstest(draws.uniform(BATCH).square(), stats.uniform(0, 1).cdf).pvalue < UNLIKELY


def test_logarithms_of_log_uniform_draws_are_uniform():
    drawn = draws.log_uniform(BATCH, low=0.25, high=4.0).log2()
    assert stats.kstest(drawn, stats.uniform(-2, 4).cdf).pvalue > UNLIKELY


def test_integers_are_equally_frequent_and_stay_below():
    counts = draws.integers(BATCH, below=9).bincount()
    assert len(counts) == 9 and stats.chisquare(counts).pvalue > UNLIKELY


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_samples_are_chosen_with_probability_p(p):
    assert stats.binomtest(int(draws.chosen(BATCH, p).sum()), NUM, p).pvalue > UNLIKELY


def test_every_sample_is_as_likely_a_partner_as_any_other():
    few = {"image": torch.zeros(8, 1, 1, 1)}
    partners = torch.stack([draws.partners(few) for _ in range(4000)])
    assert torch.equal(partners.sort(1).values, torch.arange(8).expand(4000, 8))
    assert all(stats.chisquare(place.bincount()).pvalue > UNLIKELY for place in partners.unbind(1))


def test_first_draws_of_steps_are_uniform_and_independent():
    first = []
    for step in range(4000):
        rng.seed_step(3, step, 0, CPU, torch_alone=True)
        first.append(draws.uniform({"image": torch.zeros(1, 1, 1, 1)}).item())
    assert stats.kstest(first, stats.uniform(0, 1).cdf).pvalue > UNLIKELY
    assert abs(stats.spearmanr(first[1:], first[:-1]).statistic) < 4 / math.sqrt(4000)


def test_a_transform_of_single_images_draws_with_its_own_probability():
    image = torch.arange(2.0).expand(2000, 1, 1, 2)
    flipped = PerSample(transform=v2.RandomHorizontalFlip(0.3))({"image": image}, 0)["image"][:, 0, 0, 0]
    assert stats.binomtest(int(flipped.sum()), 2000, 0.3).pvalue > UNLIKELY


ASKED = {
    "random_rotation": (random_rotation, {"degrees": 30.0}, {(-math.radians(30), math.radians(30))}),
    "color_jitter": (
        color_jitter,
        {"brightness": 0.4, "contrast": 0.3, "saturation": 2.0, "hue": 0.1},
        {(0.6, 1.4), (0.7, 1.3), (0, 3.0), (-0.1, 0.1)},
    ),
    "gaussian_blur": (gaussian_blur, {"sigma": (0.2, 1.5)}, {(0.2, 1.5)}),
    "gridmask": (gridmask, {"unit": (0.4, 0.9)}, {(0.4, 0.9)}),
    "random_erasing": (random_erasing, {"area": (0.1, 0.3), "ratio": (0.5, 2.0)}, {(0.1, 0.3), "log", (0.5, 2.0)}),
    "random_resized_crop": (
        lambda batch, step, **settings: RandomResizedCrop(size=4, **settings)(batch, step),
        {"scale": (0.2, 0.9), "ratio": (0.5, 2.0)},
        {(0.2, 0.9), "log", (0.5, 2.0)},
    ),
    "pad_crop": (pad_crop, {"pad": 2}, {"below 5"}),
    "hide_and_seek": (hide_and_seek, {"cells": (0, 4, 2)}, {"below 3"}),
}


@pytest.mark.parametrize(("function", "settings", "expected"), ASKED.values(), ids=ASKED)
def test_an_augmentation_asks_for_the_ranges_of_its_settings(function, settings, expected, monkeypatch):
    asked, uniform, integers, log_uniform = set(), draws.uniform, draws.integers, draws.log_uniform

    def seen(batch, *shape, low=0.0, high=1.0):
        asked.add((low, high))
        return uniform(batch, *shape, low=low, high=high)

    def seen_log(batch, *shape, low, high):
        asked.update({"log", (low, high)})
        return log_uniform(batch, *shape, low=low, high=high)

    def seen_integers(batch, *shape, below):
        asked.add(f"below {below}")
        return integers(batch, *shape, below=below)

    for name, instead in (("uniform", seen), ("log_uniform", seen_log), ("integers", seen_integers)):
        monkeypatch.setattr(draws, name, instead)
    function(numbered(8), 0, **settings)
    logs = {(math.log(0.5), math.log(2.0))} if "log" in expected else set()
    assert asked - {(0.0, 1.0)} - logs == expected
