"""Random scales and crops: drawn as said, with what is outside marked, and alike in workers and on the device."""

import pytest
import torch

from plainloop.augment.scale_crop import RandomScaleCrop, Span
from plainloop.contracts import IGNORE
from plainloop.system import rng
from tests.augment.batches import CPU
from tests.augment.test_spatial import assert_entries_fit, with_rectangles

WHITE = {"image": torch.ones(200, 3, 40, 40), "mask": torch.ones(200, 40, 40, dtype=torch.int64)}


def changed(augment, batch):
    rng.seed_step(0, 0, 0, CPU)
    return augment(batch, 0)


def in_worker(augment, batch):
    """The batch, each sample changed on its own as bytes."""
    rng.seed_all(0)
    samples = [{name: tensor[row] for name, tensor in batch.items()} for row in range(len(batch["image"]))]
    after = [augment.sample(sample | {"image": (sample["image"] * 255).byte()}) for sample in samples]
    batch = {name: torch.stack([sample[name] for sample in after]) for name in batch}
    return batch | {"image": batch["image"] / 255}


@pytest.mark.parametrize("way", [changed, in_worker])
def test_every_entry_moves_with_its_image(way):
    after = way(RandomScaleCrop(size=(40, 60), fill=(0.2,)), with_rectangles())
    assert after["image"].shape[-2:] == after["mask"].shape[-2:] == (40, 60)
    assert_entries_fit(after, drops=True)


@pytest.mark.parametrize("way", [changed, in_worker])
def test_what_is_outside_has_the_fill_and_no_class(way):
    after = way(RandomScaleCrop(size=40, scale=(0.5, 0.5), fill=(0.2,)), WHITE)
    outside = after["mask"] == IGNORE
    assert (~outside).sum((1, 2)).tolist() == [400] * 200  # half of either side
    assert set(after["mask"].unique().tolist()) == {1, IGNORE}
    # On the device an edge between two pixels is blended; in workers images lie on whole pixels.
    wrong = (after["image"][:, 0] - torch.where(outside, 0.2, 1.0)).abs() > 0.01
    assert wrong.float().mean() < (0.05 if way is changed else 1e-9)


@pytest.mark.parametrize("way", [changed, in_worker])
def test_places_are_uniform_for_smaller_and_for_larger_images(way):
    column = torch.arange(40.0).expand(200, 3, 40, 40) / 39
    for scale, of_edge in (
        (0.5, lambda after: (after["mask"] != IGNORE).any(1).byte().argmax(1) / 20),
        (2.0, left_edge),
    ):
        after = way(RandomScaleCrop(size=40, scale=(scale, scale)), WHITE | {"image": column})
        place = of_edge(after).float()
        assert 0 <= place.min() < 0.05 and 0.95 < place.max() <= 1.01
        assert place.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / 200) ** 0.5)  # four standard errors


def left_edge(after):
    """Of an image of twice the size: what its leftmost pixel shows, 0 to 1 of what it can."""
    return after["image"][:, 0, 20, 0] * 39 / 20


@pytest.mark.parametrize("way", [changed, in_worker])
def test_scales_are_uniform(way):
    after = way(RandomScaleCrop(size=100, scale=(0.5, 2.0)), WHITE)
    scale = (after["mask"] == 1).any(1).sum(1) / 40
    assert 0.5 - 0.04 <= scale.min() < 0.56 and 1.94 < scale.max() <= 2 + 0.04
    assert scale.mean().item() == pytest.approx(1.25, abs=4 * 1.5 * (1 / 12 / 200) ** 0.5)


@pytest.mark.parametrize("way", [changed, in_worker])
def test_scales_in_steps_are_equally_likely_and_no_others_are_drawn(way):
    after = way(RandomScaleCrop(size=100, scale=(0.5, 2.0), scale_step=0.25), WHITE)
    widths, times = (after["mask"] == 1).any(1).sum(1).unique(return_counts=True)
    assert widths.tolist() == [20, 30, 40, 50, 60, 70, 80]
    expected = times.sum() / 7
    assert ((times - expected) ** 2 / expected).sum() < 22.5  # chi-squared with 6 degrees of freedom, p = 0.001


def test_a_factor_of_one_and_the_same_size_change_nothing():
    generator = torch.Generator().manual_seed(0)
    batch = {"image": torch.rand(4, 3, 12, 16, generator=generator), "mask": torch.arange(4 * 192).view(4, 12, 16) % 9}
    augment = RandomScaleCrop(size=(12, 16), scale=(1.0, 1.0))
    same = changed(augment, batch)
    assert torch.equal(same["mask"], batch["mask"])
    torch.testing.assert_close(same["image"], batch["image"])
    sample = {"image": (batch["image"][0] * 255).byte(), "mask": batch["mask"][0]}
    assert torch.equal(augment.sample(sample)["image"], sample["image"])
    assert torch.equal(augment.sample(sample)["mask"], sample["mask"])


def test_spans_lie_inside_of_both_and_meet_at_every_scale():
    torch.manual_seed(0)
    for length in (1, 7, 40, 333):
        for scale in (0.003, 0.5, 0.77, 1.0, 1.9, 20.0):
            span = Span.drawn(length, 32, scale)
            assert 0 <= span.source.start < span.source.stop <= length
            assert 0 <= span.target.start < span.target.stop <= 32
            assert span.source.start <= span.nearest().min() and span.nearest().max() < span.source.stop


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"size": 0}, "size=0 must be one number of pixels or two"),
        ({"size": 8, "scale_step": 0.4}, r"scale_step=0.4 must divide scale=\[0.5, 2.0\] into equal parts"),
        ({"size": 8, "scale_step": 0}, r"scale_step=0 must divide"),
        ({"size": 8, "scale": (2, 1)}, r"scale=\[2, 1\] must be two numbers in rising order"),
        ({"size": 8, "scale": (0, 1)}, r"scale=\[0, 1\] must be two numbers in rising order"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        RandomScaleCrop(**settings)
