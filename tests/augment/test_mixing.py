"""Mixup and cutmix: labels follow pixels, draws per sample, the papers' distributions."""

import pytest
import torch
from scipy import stats

from plainloop.augment import draws
from plainloop.augment.mixing import cutmix, mixup, mixup_or_cutmix, rectangles
from plainloop.system import rng
from tests.augment.batches import CPU, numbered

MIXING = {"mixup": mixup, "cutmix": cutmix, "mixup_or_cutmix": mixup_or_cutmix}


def of_one_colour(number=512, num_classes=4, size=16):
    """Images of class c are c / 3 everywhere, so an image's mean says which shares its label must have."""
    label = torch.arange(number) % num_classes
    image = (label / (num_classes - 1)).view(-1, 1, 1, 1).expand(-1, 3, size, size).clone()
    return {"image": image, "label": label, "index": torch.arange(number)}


@pytest.mark.parametrize("function", MIXING.values(), ids=MIXING)
def test_labels_follow_pixels(function):
    rng.seed_step(0, 0, 0, CPU)
    batch = function(of_one_colour(), 0, num_classes=4)
    colours = torch.arange(4) / 3
    torch.testing.assert_close(batch["label"].sum(1), torch.ones(512))
    torch.testing.assert_close(batch["image"].mean((1, 2, 3)), batch["label"] @ colours, rtol=0, atol=1e-5)


def test_labels_that_do_not_follow_would_be_noticed():
    rng.seed_step(0, 0, 0, CPU)
    batch = mixup(of_one_colour(), 0, num_classes=4, alpha=1.0)
    wrong = batch["label"].flip(0) @ (torch.arange(4) / 3)
    assert not torch.allclose(batch["image"].mean((1, 2, 3)), wrong, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2])  # a whole number, as it may be typed
def test_weights_have_the_papers_distribution(alpha):
    rng.seed_step(1, 0, 0, CPU)
    drawn = draws.beta(of_one_colour(20_000), alpha)
    for place in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999):  # nearer to 1, float32 rounds to it
        below = int((drawn < place).sum())
        assert stats.binomtest(below, 20_000, stats.beta(alpha, alpha).cdf(place)).pvalue > 1e-4


def test_a_rectangle_has_the_share_of_the_area_where_nothing_is_cut_off():
    rng.seed_step(2, 0, 0, CPU)
    batch = numbered(4000, height=100, width=60)
    share = torch.full((4000,), 0.25)
    inside = rectangles(batch, share=share)
    area = inside.float().mean((1, 2, 3))
    assert area.max().item() == 0.25  # 50 x 30 pixels
    # The centre is uniform, so half of a side is lost at an edge: the mean over both sides is (1 - 1/8)^2 of the area.
    assert area.mean().item() == pytest.approx(0.25 * (1 - 1 / 8) ** 2, rel=0.02)


def test_each_sample_is_drawn_for_itself():
    rng.seed_step(3, 0, 0, CPU)
    batch = mixup(of_one_colour(), 0, num_classes=4, alpha=1.0)
    assert len(batch["label"].max(1).values.unique()) > 100


def test_about_p_of_the_samples_are_mixed_and_the_others_stay_as_they_are():
    rng.seed_step(4, 0, 0, CPU)
    before = numbered(2000, num_classes=10)
    batch = mixup(before, 0, num_classes=10, alpha=1.0, p=0.3)
    same = (batch["image"] == before["image"]).flatten(1).all(1)
    assert torch.equal(batch["label"][same].argmax(1), before["label"][same])
    assert 0.65 < same.float().mean() < 0.75


def test_cutmix_takes_its_share_of_either():
    rng.seed_step(5, 0, 0, CPU)
    before = of_one_colour(4000)
    batch = mixup_or_cutmix(before, 0, num_classes=4, cutmix_share=0.25)
    of_two_colours = (batch["image"].flatten(1).amax(1) != batch["image"].flatten(1).amin(1)).float().mean()
    # Of the rectangles some are empty and three quarters of the partners have another colour.
    assert 0.12 < of_two_colours < 0.2


@pytest.mark.parametrize("function", MIXING.values(), ids=MIXING)
def test_from_the_step_of_until_on_nothing_is_mixed(function):
    batch = numbered(8, num_classes=4)
    assert function(batch, 100, num_classes=4, until=100) is batch
    assert function(batch, 99, num_classes=4, until=100)["label"].shape == (8, 4)


def test_mixed_labels_are_mixed_again():
    rng.seed_step(6, 0, 0, CPU)
    batch = cutmix(mixup(of_one_colour(), 0, num_classes=4), 0, num_classes=4)
    torch.testing.assert_close(
        batch["image"].mean((1, 2, 3)), batch["label"] @ (torch.arange(4) / 3), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("settings", "match"), [({"alpha": 0}, "alpha=0 must be above 0"), ({"p": 2}, "p=2")])
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        mixup(numbered(4, num_classes=4), 0, num_classes=4, **settings)
