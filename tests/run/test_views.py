"""Views of an image are averaged where the image is; a task with its own way keeps it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plainloop.errors import BadConfig
from plainloop.run.trained.open import open_run
from plainloop.run.trained.views import PART, View, Views, is_trained_with_flips, kinds_of, views_of, with_views
from tests.harness.configs import ROOT, checked

GOLDEN = ROOT / "tests/lifecycle/golden_run/sweep/0"


class Left(nn.Module):
    """(B, C): the mean of each channel's left half; so mirrored images differ."""

    def forward(self, image: Tensor) -> Tensor:
        return image[..., : image.shape[-1] // 2].mean((2, 3))


class Same(nn.Module):
    """A map: the image itself."""

    def forward(self, image: Tensor) -> Tensor:
        return image


def images() -> Tensor:
    return torch.rand(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))


def test_outputs_of_mirrored_images_are_averaged() -> None:
    image = images()
    expected = (Left()(image) + Left()(image.flip(-1))) / 2
    assert torch.equal(Views(Left(), ("flip",))(image), expected)
    assert not torch.equal(Left()(image), expected)


def test_a_map_is_brought_back_to_the_places_of_the_image() -> None:
    image = images()
    assert torch.equal(Views(Same(), ("flip",))(image), image)
    assert not torch.equal((image + image.flip(-1)) / 2, image)  # the control: a map that is not turned back
    smooth = torch.linspace(0, 1, 24).expand(1, 1, 16, 24)
    several = Views(Same(), ("flip", "multi_scale"))(smooth)
    assert several.shape == smooth.shape
    torch.testing.assert_close(several, smooth, rtol=0, atol=0.01)  # resized twice


@pytest.mark.parametrize(
    ("kinds", "number"),
    [
        ((), 1),
        (("flip",), 2),
        (("multi_scale",), 3),
        (("crops",), 5),
        (("flip", "crops"), 10),
        (("flip", "multi_scale"), 6),
    ],
)
def test_kinds_are_combined(kinds: tuple[str, ...], number: int) -> None:
    views = views_of(kinds)
    assert len(views) == len(set(views)) == number and View(corner=4 if "crops" in kinds else None) in views
    assert Views(Left(), kinds)(images()).shape == (3, 2)


def test_crops_are_the_corners_and_the_middle_at_the_whole_size() -> None:
    image = torch.zeros(1, 1, 16, 24)
    marks = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    for value, (row, column) in enumerate(marks, start=1):
        image[..., row, column] = value
    for corner in range(5):
        part = View(corner=corner).of(image)
        assert part.shape == image.shape
        seen = [float(part[..., row, column]) > 0 for row, column in marks]
        assert seen == [number == corner for number in range(4)]
    assert PART < 1


def test_kinds_are_read_in_any_order_and_wrong_ones_told() -> None:
    assert kinds_of("crops, flip") == kinds_of("[flip,crops]") == ("flip", "crops")
    assert kinds_of("") == kinds_of("none") == ()
    with pytest.raises(BadConfig, match="tta=flip,rotate: rotate is not known"):
        kinds_of("flip,rotate")


class Listed(nn.Module):
    def forward(self, image: Tensor) -> Any:
        return [image]


def test_what_cannot_be_averaged_is_told() -> None:
    with pytest.raises(BadConfig, match=r"tta=flip averages outputs .*, and this model gives a list"):
        Views(Listed(), ("flip",))(images())
    with pytest.raises(BadConfig, match="tta=crops: a part of an image has no map of the whole image"):
        Views(Same(), ("crops",))(images())


def test_a_task_that_averages_views_itself_does_so(tmp_path: Path) -> None:
    trained = open_run(shutil.copytree(GOLDEN, tmp_path / "run"))
    assert isinstance(with_views(trained, ("flip",)).model, Views)
    task = checked("task=segmentation", "data=digit_scenes", "model=tiny_seg")["task"]
    segmenting = with_views(trained.__class__(**vars(trained) | {"config": trained.config | {"task": task}}), ("flip",))
    assert segmenting.model is trained.model
    assert (segmenting.task.tta_flip, segmenting.task.tta_scales) == (True, (1.0,))
    with pytest.raises(BadConfig, match="tta=crops is nothing that this task can average") as caught:
        with_views(segmenting, ("flip", "crops"))
    assert caught.value.hint == "type tta=flip,multi_scale"


def test_objects_have_no_views(tmp_path: Path) -> None:
    trained = open_run(shutil.copytree(GOLDEN, tmp_path / "run"))
    config = checked("task=detection", "data=digit_boxes", "model=yolov3", "model.backbone=tiny")
    with pytest.raises(BadConfig, match="tta=flip: there are no views for objects") as caught:
        with_views(trained.__class__(**vars(trained) | {"config": trained.config | config}), ("flip",))
    assert caught.value.hint == "leave tta=flip out"


def test_whether_a_run_was_trained_with_mirror_images_is_seen_in_its_augmentations() -> None:
    for augment, answer in (
        ("crop_flip", True),
        ("vertical_flip", False),
        ("randaugment", False),
        ("segmentation", True),
    ):
        assert is_trained_with_flips(checked(f"augment={augment}")) is answer
