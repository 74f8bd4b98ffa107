"""Files of any kind become upright RGB bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.data.loading.decode import decode, resize_and_crop
from plainloop.errors import BadData

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def written(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_rgb_pixels_come_back_as_they_are(tmp_path):
    image = decode(written(tmp_path, Image.fromarray(RGB)))
    assert torch.equal(image, torch.from_numpy(RGB).permute(2, 0, 1))
    assert image.permute(1, 2, 0).is_contiguous()


def test_exif_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held by a camera turned to the right
    image = decode(written(tmp_path, Image.fromarray(RGB), exif=exif))
    assert torch.equal(image, torch.from_numpy(np.rot90(RGB, -1).copy()).permute(2, 0, 1))


def test_sixteen_bit_greys_are_scaled_and_not_cut_off(tmp_path):
    grey = np.array([[0, 257, 40_000, 65_535]], dtype=np.uint16)
    assert decode(written(tmp_path, Image.fromarray(grey)))[0].tolist() == [[0, 1, 156, 255]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    name = "image.tiff" if mode == "CMYK" else "image.png"
    assert decode(written(tmp_path, Image.fromarray(RGB).convert(mode), name)).shape == (3, 6, 9)


def test_a_palette_with_transparent_entries_becomes_rgb_without_a_warning(tmp_path, recwarn):
    image = Image.fromarray(RGB).convert("P")
    assert decode(written(tmp_path, image, transparency=bytes(range(200)))).shape == (3, 6, 9)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["image.jpg", "image.png", "image.webp", "image.bmp"])
@pytest.mark.parametrize("left", [0, 3, 40, 100])
def test_a_file_that_is_cut_off_is_named(tmp_path, name, left):
    path = written(tmp_path, Image.fromarray(RGB), name)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BadData, match=rf"{name} cannot be decoded"):
        decode(path)


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(BadData, match=r"page.jpg cannot be decoded"):
        decode(tmp_path / "page.jpg")


@pytest.mark.parametrize("shape", [(3, 5, 9), (3, 200, 31), (3, 64, 64), (3, 1, 400)])
def test_every_shape_is_cut_to_the_square(shape):
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert resize_and_crop(image, image_size=32, crop_fraction=0.875).shape == (3, 32, 32)


def test_crop_fraction_one_leaves_an_image_of_that_size_alone():
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    assert torch.equal(resize_and_crop(image, image_size=8, crop_fraction=1), image)


def test_the_centre_is_what_is_kept():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, 2:6, 2:6] = 200
    assert (resize_and_crop(image, image_size=4, crop_fraction=0.5) == 200).all()
