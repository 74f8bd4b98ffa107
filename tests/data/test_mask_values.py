"""The values of a mask become classes, or one message says why not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainloop.contracts import IGNORE
from plainloop.errors import BadData
from tests.data.test_mask_folder import one, small


def test_the_numbers_of_a_palette_are_the_classes(tmp_path: Path) -> None:
    assert one(small(tmp_path, 2, mode="P")).unique().tolist() == [2]


def test_values_are_mapped_by_a_table(tmp_path: Path) -> None:
    small(tmp_path, 200)
    assert one(tmp_path, mask_values=[[0, 0], [1, 2], [200, 1]]).unique().tolist() == [1]
    assert one(tmp_path, ignore_index=200).unique().tolist() == [IGNORE]
    assert one(tmp_path, first_class=198).unique().tolist() == [2]


def test_colours_are_mapped_by_the_palette(tmp_path: Path) -> None:
    palette = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    small(tmp_path, [0, 128, 0])
    assert one(tmp_path, palette=palette).unique().tolist() == [2]
    assert one(tmp_path, palette=[[1, 1, 1], *palette[:2]], ignored_colour=[0, 128, 0]).unique().tolist() == [IGNORE]
    with pytest.raises(BadData, match=r"b\.png is a picture in colours \(mode RGB\); expected one channel"):
        one(tmp_path)
    with pytest.raises(BadData, match=r"colours that are no class, the first at x=0, y=0: \[0, 128, 0\]"):
        one(tmp_path, palette=[[9, 9, 9], *palette[:2]])


def test_a_value_that_is_no_class_is_named_with_its_place(tmp_path: Path) -> None:
    small(tmp_path)
    pixels = np.ones((8, 12), np.uint8)
    pixels[3, 5], pixels[7, 0] = 7, 9
    Image.fromarray(pixels).save(tmp_path / "masks/val/b.png")
    match = (
        r"b\.png has values that are no class: 7, 9, the first at x=5, y=3; there are 3 classes; it is sample|b\.png"
    )
    with pytest.raises(BadData, match=match):
        one(tmp_path)


def test_a_mask_of_another_size_is_named_with_both(tmp_path: Path) -> None:
    small(tmp_path, 1, size=(11, 8))
    with pytest.raises(BadData, match=r"b\.png has 11 x 8 pixels, and its image .*b\.png has 12 x 8"):
        one(tmp_path)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "masks/val/b.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.raises(BadData, match=r"masks/val/b\.png cannot be decoded"):
        one(tmp_path)


def test_an_image_without_a_labelled_pixel_is_read_as_such(tmp_path: Path) -> None:
    assert one(small(tmp_path, 255)).unique().tolist() == [IGNORE]
