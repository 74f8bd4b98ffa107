"""Random parts of images, in batches and in workers."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.per_sample import PerSample, as_augmentation
from plainloop.system import rng
from tests.augment.batches import CPU


def seeded(seed, function, *arguments):
    rng.seed_step(seed, 0, 0, CPU)
    return function(*arguments)


def blank(number, height, width):
    return {"image": torch.zeros(1, 1, 1, 1).expand(number, 1, height, width)}


def test_the_whole_image_at_its_own_size_stays_as_it_is():
    batch = {"image": torch.rand(4, 3, 9, 9)}
    cropped = RandomResizedCrop(size=9, scale=(1, 1), ratio=(1, 1))(batch, 0)["image"]
    torch.testing.assert_close(cropped, batch["image"], rtol=0, atol=1e-5)  # float32 positions of pixels


def test_half_the_size_of_the_whole_image_is_the_mean_of_each_four_pixels():
    image = torch.arange(16.0).view(1, 1, 4, 4) / 16
    cropped = RandomResizedCrop(size=2, scale=(1, 1), ratio=(1, 1))({"image": image}, 0)["image"]
    torch.testing.assert_close(cropped * 16, torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))


def test_a_part_at_its_own_size_is_cut_out_to_the_pixel():
    crop = RandomResizedCrop(size=4, scale=(0.25, 0.25), ratio=(1, 1))
    image = torch.rand(16, 2, 8, 8)
    cropped = seeded(0, crop, {"image": image}, 0)["image"]
    top, left, h, w = seeded(0, crop.parts, {"image": image})
    assert (h == 4).all()
    assert (w == 4).all()
    for one, whole, i, j in zip(cropped, image, top.int().tolist(), left.int().tolist()):
        torch.testing.assert_close(one, whole[:, i : i + 4, j : j + 4], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (30, 90), (1, 5)])
def test_parts_lie_inside_and_keep_scale_and_ratio(height, width):
    scale, ratio = (0.2, 0.9), (0.5, 2.0)
    crop = RandomResizedCrop(size=4, scale=scale, ratio=ratio)
    top, left, h, w = seeded(0, crop.parts, blank(5000, height, width))
    for number in (top, left, h, w):
        assert torch.equal(number, number.round())
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    if min(height, width) > 20:  # where whole pixels are fine enough
        assert (h * w / (height * width)).min() > 0.15
        assert (h * w / (height * width)).max() < 0.95
        assert (w / h).min() > 0.4
        assert (w / h).max() < 2.2


def test_parts_are_drawn_as_torchvision_draws_them():
    crop = RandomResizedCrop(size=4)
    mine = torch.stack(seeded(0, crop.parts, blank(20_000, 32, 24)))
    image = torch.zeros(3, 32, 24)
    drawn = [crop.sample_transform.make_params([image]) for _ in range(20_000)]
    names = ("top", "left", "height", "width")
    theirs = torch.tensor([[one[name] for one in drawn] for name in names], dtype=torch.float32)
    spread = theirs.std(dim=1) / 20_000**0.5
    # The difference of two means of 20,000 draws: six of its standard deviations.
    assert ((mine.mean(dim=1) - theirs.mean(dim=1)).abs() < 6 * 2**0.5 * spread).all()
    torch.testing.assert_close(mine.std(dim=1), theirs.std(dim=1), rtol=0.05, atol=0)


def test_where_nothing_fits_the_largest_central_part_is_taken():
    top, left, h, w = RandomResizedCrop(size=4, scale=(1, 1), ratio=(1, 1)).parts(blank(3, 10, 40))
    assert [number.tolist() for number in (top, left, h, w)] == [[0] * 3, [15] * 3, [10] * 3, [10] * 3]


def test_size_may_differ_by_direction_and_range_stays():
    image = RandomResizedCrop(size=[6, 9])({"image": torch.rand(5, 3, 17, 13)}, 0)["image"]
    assert image.shape == (5, 3, 6, 9)
    assert image.min() >= 0
    assert image.max() <= 1


def test_labels_follow_pixels():
    label = torch.arange(10)
    batch = {"image": (label / 10).view(-1, 1, 1, 1).expand(-1, 1, 8, 8), "label": label}
    cropped = RandomResizedCrop(size=8)(batch, 0)
    torch.testing.assert_close(cropped["image"][:, 0, 3, 3] * 10, cropped["label"].float())


def test_the_seed_decides_the_draws():
    crop, batch = RandomResizedCrop(size=6), {"image": torch.rand(8, 1, 12, 12)}
    assert torch.equal(seeded(1, crop, batch, 0)["image"], seeded(1, crop, batch, 0)["image"])
    assert not torch.equal(seeded(1, crop, batch, 0)["image"], seeded(2, crop, batch, 0)["image"])


def test_in_workers_it_is_torchvisions():
    image = torch.randint(0, 256, (3, 40, 31), dtype=torch.uint8)
    crop = RandomResizedCrop(size=16, scale=(0.2, 1))
    assert torch.equal(
        seeded(3, crop.sample, {"image": image})["image"],
        seeded(3, v2.RandomResizedCrop(16, (0.2, 1), antialias=True), image),
    )
    assert crop.sample({"image": image})["image"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"size=0 must be one number"),
        ({"size": [3, 8, 8]}, r"size=\[3, 8, 8\] must be one number of pixels or two"),
        ({"size": 8, "scale": [0.5, 0.2]}, r"scale=\[0.5, 0.2\] must be two shares"),
        ({"size": 8, "scale": [0, 1]}, r"scale=\[0, 1\] must be"),
        ({"size": 8, "ratio": [2, 1]}, r"ratio=\[2, 1\] must be two ratios"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**settings)


def test_any_transform_of_torchvision_is_an_augmentation():
    augment = as_augmentation(v2.RandomInvert(p=1))
    image = torch.rand(3, 1, 4, 4)
    assert torch.equal(augment({"image": image, "label": torch.arange(3)}, 0)["image"], 1 - image)
    bytes_ = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
    assert torch.equal(augment.sample({"image": bytes_})["image"], F.invert(bytes_))
    assert as_augmentation(augment) is augment


def test_a_per_sample_transform_draws_for_each_image():
    augment = PerSample(transform=v2.RandomHorizontalFlip())
    image = torch.arange(4.0).expand(64, 1, 1, 4)
    assert len(seeded(0, augment, {"image": image}, 0)["image"].unique(dim=0)) == 2
