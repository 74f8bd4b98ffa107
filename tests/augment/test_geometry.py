"""Shifts and flips: values by hand, labels follow pixels, draws from the seed alone."""

import functools

import pytest
import torch

from plainloop.augment.geometry import horizontal_flip, pad_crop, reflected, vertical_flip
from plainloop.system import rng
from tests.augment.batches import CPU

ALL = {
    "pad_crop": functools.partial(pad_crop, pad=2),
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
}


def numbered(number=64, channels=3, height=6, width=5):
    """Images that differ everywhere; the label can be read off any pixel of an image."""
    label = torch.arange(number)
    pixels = torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(0))
    return {"image": (label.view(-1, 1, 1, 1) + pixels) / number, "label": label, "index": label + 1000}


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_shape_dtype_and_range_stay(augment):
    batch = numbered()
    image = augment(batch, 0)["image"]
    assert image.shape == batch["image"].shape
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_labels_follow_pixels(augment):
    batch = augment(numbered(), 0)
    assert (batch["image"] * 64).long().eq(batch["label"].view(-1, 1, 1, 1)).all()
    assert torch.equal(batch["index"], batch["label"] + 1000)


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_the_seed_decides_the_draws(augment):
    def drawn(seed):
        rng.seed_step(seed, 0, 0, CPU)
        return augment(numbered(), 0)["image"]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_the_batch_that_came_in_is_left_alone(augment):
    batch = numbered()
    augment(batch, 0)
    assert torch.equal(batch["image"], numbered()["image"])


def test_positions_outside_are_mirrored_at_the_edge_pixels():
    assert reflected(torch.arange(-2, 6), 4).tolist() == [2, 1, 0, 1, 2, 3, 2, 1]


def test_every_shift_of_a_reflected_image_occurs_and_nothing_else():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
    expected = {padded[0, 0, i : i + 4, j : j + 4].numpy().tobytes() for i in range(3) for j in range(3)}
    rng.seed_step(0, 0, 0, CPU)
    shifted = pad_crop({"image": image.expand(200, 1, 4, 4)}, 0, pad=1)["image"]
    assert {one.numpy().tobytes() for one in shifted.contiguous()} == expected


def test_channels_are_shifted_together():
    image = torch.rand(8, 1, 6, 6).expand(8, 3, 6, 6)
    shifted = pad_crop({"image": image}, 0, pad=3)["image"]
    assert torch.equal(shifted[:, 0], shifted[:, 2])


def test_a_pad_as_large_as_the_image_is_refused():
    with pytest.raises(ValueError, match=r"pad=4 must be at least 0 and less than the image, which is 4 x 9"):
        pad_crop({"image": torch.zeros(2, 1, 4, 9)}, 0, pad=4)


def test_flips_mirror_along_their_own_direction():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    assert horizontal_flip({"image": image}, 0, p=1)["image"].flatten().tolist() == [2, 1, 4, 3]
    assert vertical_flip({"image": image}, 0, p=1)["image"].flatten().tolist() == [3, 4, 1, 2]
    assert torch.equal(horizontal_flip({"image": image}, 0, p=0)["image"], image)


def test_p_is_the_share_of_images_that_are_flipped():
    rng.seed_step(0, 0, 0, CPU)
    batch = {"image": torch.tensor([0.0, 1.0]).expand(10_000, 1, 1, 2)}
    share = horizontal_flip(batch, 0, p=0.3)["image"][:, 0, 0, 0].mean().item()
    assert abs(share - 0.3) < 0.02  # four standard deviations of 10,000 draws


def test_a_p_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"p=1.5 must lie between 0 and 1"):
        horizontal_flip({"image": torch.zeros(1, 1, 2, 2)}, 0, p=1.5)
