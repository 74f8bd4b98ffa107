"""An image file outside of a data set becomes the pixels that evaluation gives for the same image in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from plainloop.config.parts import preprocessing_of
from plainloop.data.digits import Digits
from plainloop.data.image_folder import ImageFolder
from plainloop.data.loading.decode import decode
from plainloop.data.loading.outside import of_picture
from plainloop.data.masks.digit_scenes import DigitScenes
from plainloop.errors import BadData
from tests.harness.photos import photograph, write_photographs


def config(source: type, arguments: dict[str, Any]) -> dict[str, Any]:
    node = {"_target_": f"{source.__module__}.{source.__qualname__}", **arguments}
    return {"data": node, "plugins": [], "facts": {"image_shape": source.facts(**arguments).image_shape}}


def pixels(image: Tensor) -> Image.Image:
    """A picture of (1 or 3, H, W) bytes."""
    return Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("cache", [{}, {"cache": "ram"}, {"cache": "ram", "cache_size": 60}])
def test_a_photograph_is_seen_as_in_its_class_folder(tmp_path: Path, cache: dict[str, Any]) -> None:
    root = write_photographs(tmp_path / "set", per_class=5)
    arguments = {"root": str(root), "batch_size": 2, "num_workers": 0, "image_size": 32, **cache}
    preprocessing = preprocessing_of(config(ImageFolder, arguments))
    source = ImageFolder(**arguments)
    (batch,) = source.eval_batches("val")
    files = [root / path.decode() for path in source.images["val"].paths]
    assert torch.equal(torch.stack([preprocessing.prepare(decode(file)) for file in files]), batch["image"])
    assert (preprocessing.crop_fraction, preprocessing.one_size) == (0.875, True)
    with Image.open(files[0]) as picture:
        assert torch.equal(of_picture(picture), decode(files[0]))


@pytest.mark.parametrize("source", [Digits, DigitScenes], ids=lambda source: source.__name__)
def test_an_image_of_a_set_in_memory_is_seen_as_there(tmp_path: Path, source: type) -> None:
    arguments = {"batch_size": 4} | ({"num_train": 4, "num_val": 1} if source is DigitScenes else {"device": "cpu"})
    preprocessing = preprocessing_of(config(source, arguments))
    image = next(source(**arguments).eval_batches("val"))["image"][0]
    pixels(image).save(tmp_path / "one.png")
    assert torch.equal(preprocessing.prepare(decode(tmp_path / "one.png")), image)
    seen = preprocessing.prepare(of_picture(photograph((50, 40))))
    assert seen.shape == ((1, 8, 8) if preprocessing.one_size else (3, 40, 50))


def test_channels_that_no_image_file_has_are_refused() -> None:
    four = config(Digits, {"batch_size": 4}) | {"facts": {"image_shape": [4, 8, 8]}}
    with pytest.raises(BadData, match="images have 4 channels, and image files give 1 or 3"):
        preprocessing_of(four)
