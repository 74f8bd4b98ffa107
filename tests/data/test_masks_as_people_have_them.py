"""Masks that are easily read in a wrong way: of photographs that EXIF turns, and with the values 0 and 255."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from plainloop.contracts import IGNORE, Batch
from plainloop.data.loading.jpeg import ORIENTATION
from plainloop.data.masks.mask_folder import MaskFolder
from plainloop.errors import BadData
from tests.data.test_mask_folder import picture, source

STORED = np.zeros((24, 40), np.uint8)  # an object in one corner: no turn leaves it where it is
STORED[2:9, 3:16] = 1


def photograph(root: Path, orientation: int, values: np.ndarray, *, pixels: np.ndarray = STORED, own: int = 1) -> Path:
    """A JPEG whose EXIF turns it, white where it has its object, and a mask with these values and its own EXIF."""
    picture(root / "images/train/a.png")
    save(np.zeros((8, 12), np.uint8), root / "masks/train/a.png")
    save(pixels * 255, root / "images/val/b.jpg", orientation)
    save(values, root / "masks/val/b.png", own)
    return root


def save(values: np.ndarray, path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation > 1:
        exif[ORIENTATION] = orientation
    Image.fromarray(values).save(path, quality=100, exif=exif)


def batch_of(root: Path, **settings: Any) -> Batch:
    (batch,) = source(root, **settings).eval_batches("val")
    return batch


def fits(batch: Batch) -> bool:
    return torch.equal(batch["image"][0, 0] > 127, batch["mask"][0] == 1)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(values)
    image.getexif()[ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_pixels_as_stored_is_turned_with_its_image(orientation: int, tmp_path: Path) -> None:
    assert fits(batch_of(photograph(tmp_path, orientation, STORED)))
    assert fits(batch_of(tmp_path, cache="ram"))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_turned_photograph_is_left_as_it_is(orientation: int, tmp_path: Path) -> None:
    assert fits(batch_of(photograph(tmp_path, orientation, upright(STORED, orientation))))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_with_the_same_exif_is_turned_by_its_own(orientation: int, tmp_path: Path) -> None:
    assert fits(batch_of(photograph(tmp_path, orientation, STORED, own=orientation)))


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_where_the_size_does_not_tell_for_which_way_a_mask_is_it_is_refused(orientation: int, tmp_path: Path) -> None:
    square = STORED if orientation < 5 else STORED[:, :24].copy()
    with pytest.raises(BadData, match=r"b\.jpg is turned by its EXIF, and its mask .*b\.png may be for") as told:
        batch_of(photograph(tmp_path, orientation, square, pixels=square))
    image = tmp_path / "images/val/b.jpg"
    assert f"mogrify -auto-orient '{image}'" in told.value.hint and f"mogrify -strip '{image}'" in told.value.hint
    save(square * 255, image)  # what -strip leaves
    assert fits(batch_of(tmp_path))


def binary(root: Path, *values: int) -> Path:
    """Three masks for training and one for validation, each with 0 and these values."""
    pixels = np.tile(np.array([0, *values], np.uint8), (8, 1))
    for name in ("train/0.png", "train/1.png", "train/2.png", "val/0.png"):
        picture(root / "images" / name, size=pixels.shape[::-1])
        save(pixels, root / "masks" / name)
    return root


def facts(root: Path, **settings: Any) -> Any:
    return MaskFolder.facts(root=str(root), batch_size=1, **{"class_names": ["background", "road"]} | settings)


def test_masks_of_0_and_255_are_refused_before_anything_starts_and_what_is_told_reads_them(tmp_path: Path) -> None:
    binary(tmp_path, 255)
    with pytest.raises(
        BadData, match=r"none of the 3 training masks has a pixel .* they have 255, which is no"
    ) as told:
        facts(tmp_path)
    assert "type 'data.mask_values=[[0,0],[255,1]]' data.ignore_index=null" in told.value.hint
    typed = {"mask_values": [[0, 0], [255, 1]], "ignore_index": None}
    assert facts(tmp_path, **typed).class_names == ("background", "road")
    assert batch_of(tmp_path, class_names=["background", "road"], **typed)["mask"].unique().tolist() == [0, 1]
    said = {"mask_values": [[0, 0], [1, 1]]}
    assert batch_of(tmp_path, class_names=["background", "road"], **said)["mask"].unique().tolist() == [0, IGNORE]
    assert facts(tmp_path, **said).num_train == 3


def test_one_mask_with_the_second_class_is_enough(tmp_path: Path) -> None:
    binary(tmp_path, 255)
    save(np.eye(8, 2, dtype=np.uint8), tmp_path / "masks/train/2.png")
    assert facts(tmp_path).num_train == 3


@pytest.mark.parametrize("values", [(0,), (1, 255)])
def test_masks_without_255_or_with_both_classes_are_not_refused(values: tuple[int, ...], tmp_path: Path) -> None:
    assert facts(binary(tmp_path, *values)).num_train == 3
    assert facts(tmp_path, class_names=["background", "road", "tree"]).num_train == 3


def test_masks_of_255_alone_may_be_of_more_classes(tmp_path: Path) -> None:
    assert facts(binary(tmp_path, 255), class_names=["background", "road", "tree"]).num_train == 3
