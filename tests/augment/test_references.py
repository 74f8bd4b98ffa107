"""Against torchvision's functions with the same factors, angles and widths."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as V2

from plainloop.augment import draws
from plainloop.augment.colour import color_jitter, gaussian_blur, with_hue_turned
from plainloop.augment.erasing import cutout, gridmask, hide_and_seek, random_erasing
from plainloop.augment.geometry import random_rotation
from plainloop.system import rng
from tests.augment.batches import CPU, numbered


def drawn(monkeypatch):
    """Records what `uniform` gives while an augmentation runs."""
    record, plain = [], draws.uniform

    def uniform(*args, **settings):
        record.append(plain(*args, **settings))
        return record[-1]

    monkeypatch.setattr(draws, "uniform", uniform)
    rng.seed_step(0, 0, 0, CPU)
    return record


@pytest.mark.parametrize("size", [8, 128])  # large ones are changed one by one
def test_colours_are_torchvisions(size, monkeypatch):
    record = drawn(monkeypatch)
    batch = numbered(16 if size == 8 else 2, height=size, width=size)
    ours = color_jitter(batch, 0, hue=0.3)["image"]
    _, brightness, contrast, saturation, hue = record
    for number, image in enumerate(batch["image"]):
        image = V2.adjust_brightness(image, brightness[number].item())
        image = V2.adjust_contrast(image, contrast[number].item())
        image = V2.adjust_saturation(image, saturation[number].item())
        image = V2.adjust_hue(image, hue[number].item())
        torch.testing.assert_close(ours[number], image, rtol=0, atol=2e-5)  # other orders of the same sums


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_a_turn_of_the_hue_is_torchvisions_on_edges_of_the_colour_space(turn):
    levels = torch.tensor([0.0, 0.5, 1.0])
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 3, 9).contiguous()
    ours = with_hue_turned(image, torch.tensor([turn]))
    torch.testing.assert_close(ours, V2.adjust_hue(image, turn), rtol=0, atol=1e-5)


def test_a_blur_is_torchvisions(monkeypatch):
    record = drawn(monkeypatch)
    batch = numbered(8, height=20, width=24)
    ours = gaussian_blur(batch, 0, kernel=0.25, p=1.0)["image"]
    for number, image in enumerate(batch["image"]):
        theirs = V2.gaussian_blur(image, kernel_size=[5, 5], sigma=[record[0][number].item()] * 2)
        torch.testing.assert_close(ours[number], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 9), (8, 12)])
def test_a_rotation_is_torchvisions(monkeypatch, size):
    record = drawn(monkeypatch)
    batch = numbered(8, height=size[0], width=size[1])
    ours = random_rotation(batch, 0, degrees=40)["image"]
    for number, image in enumerate(batch["image"]):
        degrees = math.degrees(record[0][number].item())
        theirs = V2.rotate(image, degrees, interpolation=V2.InterpolationMode.BILINEAR, fill=[0.0] * 3)
        inside = V2.rotate(torch.ones_like(image), degrees, interpolation=V2.InterpolationMode.BILINEAR) == 1
        torch.testing.assert_close(ours[number][inside], theirs[inside], rtol=0, atol=1e-4)


def erased(function, number=4000, height=32, width=32, **settings):
    rng.seed_step(0, 0, 0, CPU)
    batch = numbered(number, channels=1, height=height, width=width)
    batch["image"] = batch["image"] / 2 + 0.5  # nothing is 0 but what is filled with it
    return function(batch, 0, **settings)["image"] == 0


def test_cutout_takes_one_square_of_the_papers_side():
    pixels = erased(cutout)
    rows, columns = pixels.any(3).sum(2), pixels.any(2).sum(2)
    assert torch.equal(pixels.sum((1, 2, 3)), (rows * columns).flatten())  # one rectangle
    assert rows.max() == 16
    assert columns.max() == 16
    # A uniform centre loses half of the square at an edge: 16 px of 32 keep (1 - 1/8)^2 of the area on average.
    assert pixels.float().mean().item() == pytest.approx(0.25 * (1 - 1 / 8) ** 2, rel=0.03)


def test_random_erasing_takes_rectangles_of_the_papers_areas_and_ratios_inside_the_image():
    pixels = erased(random_erasing, mode="const", p=1.0, height=64, width=64)
    rows, columns = pixels.any(3).sum(2).flatten().double(), pixels.any(2).sum(2).flatten().double()
    assert torch.equal(pixels.sum((1, 2, 3)).double(), rows * columns)
    area, ratio = rows * columns / 64**2, rows / columns
    assert area.min() > 0.015
    assert area.max() < 0.42
    assert ratio.min() > 0.25
    assert ratio.max() < 4
    assert area.mean().item() == pytest.approx(0.2, rel=0.1)  # a little less than 0.21: long large ones do not fit
    assert ratio.log().mean().abs() < 0.05


def test_about_p_of_the_images_are_erased():
    pixels = erased(random_erasing, mode="const", p=0.25, height=64, width=64)
    assert pixels.flatten(1).any(1).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_gridmask_keeps_the_papers_share():
    pixels = erased(gridmask, unit=(0.5, 0.5), ratio=0.5, p=1.0)
    assert torch.equal(pixels.float().mean((1, 2, 3)), torch.full((4000,), 0.25))


def test_hide_and_seek_hides_cells_of_one_size_each_with_the_papers_probability():
    pixels = erased(hide_and_seek, cells=(4,), hide=0.5)
    cells = pixels.view(4000, 4, 8, 4, 8).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(cells.any(3), cells.all(3))
    assert cells.all(3).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_noise_is_uniform_and_differs_between_samples_and_places():
    rng.seed_step(0, 0, 0, CPU)
    noise = draws.noise(numbered(256, height=32, width=32))
    counts = torch.histc(noise, bins=20, min=0, max=1)
    expected = noise.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared with 19 degrees: above once in 10^4
    flat = noise.flatten(1) - 0.5
    correlation = (flat @ flat.T / flat.shape[1] * 12).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / math.sqrt(flat.shape[1])
