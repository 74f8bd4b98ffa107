"""Ordinary JPEGs have the pixels that Pillow gives them; all others go to Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.augment.crop import RandomResizedCrop
from plainloop.data.loading import decode as decoding
from plainloop.data.loading.decode import decode, stored_size
from plainloop.data.loading.jpeg import decode_jpeg
from plainloop.errors import BadData
from tests.harness.photos import photograph

KINDS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:1:1": {"subsampling": "4:1:1"},
    "progressive": {"progressive": True},
    "lowest quality": {"quality": 1},
    "highest quality": {"quality": 100},
    "RGB": {"keep_rgb": True},
}


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def by_pillow(content):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_pillows(kind, mode):
    content = jpeg(photograph((123, 91)).convert(mode), **KINDS[kind])
    assert torch.equal(decode_jpeg(content), by_pillow(content))


def test_pixels_that_differ_are_noticed():
    content, other = (jpeg(photograph((123, 91)), quality=quality) for quality in (90, 89))
    assert not torch.equal(decode_jpeg(content), by_pillow(other))


WHOLE = jpeg(photograph((123, 91)))
FOR_PILLOW = {
    "empty": b"",
    "of another kind": b"<html>",
    "cut off": WHOLE[:-300],
    "altered": WHOLE[:2000] + bytes(40) + WHOLE[2040:],
    "of four colours": jpeg(photograph((123, 91)).convert("CMYK")),
    **{f"to be turned, {way}": jpeg(photograph((123, 91)), exif=turned(way)) for way in range(2, 9)},
    "turned after a colour profile": jpeg(photograph((123, 91)), exif=turned(6), icc_profile=bytes(9000)),
}


@pytest.mark.parametrize("kind", FOR_PILLOW)
def test_what_is_not_ordinary_is_left_to_pillow(kind):
    assert decode_jpeg(FOR_PILLOW[kind]) is None


def test_an_upright_photograph_of_a_camera_is_ordinary():
    assert decode_jpeg(jpeg(photograph((123, 91)), exif=turned(1))) is not None


def test_a_bomb_is_left_to_pillow(monkeypatch):
    assert decode_jpeg(WHOLE) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123 * 91 // 2)
    assert decode_jpeg(WHOLE) is None


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_of_up_to_twice_pillows_limit_are_decoded_and_larger_ones_have_one_message(
    suffix, tmp_path, monkeypatch
):
    path = tmp_path / f"a.{suffix}"
    photograph((123, 90)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123 * 90 // 2)
    assert decode(path).shape == (3, 90, 123)
    assert stored_size(path) == (90, 123)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123 * 90 // 2 - 1)
    with pytest.raises(BadData, match=f"a.{suffix} has more than 0 million pixels, .*: make it smaller, or cut it"):
        decode(path)
    assert stored_size(path) is None


@pytest.mark.parametrize("way", range(1, 9))
def test_a_turned_photograph_is_upright_as_a_decoded_file(tmp_path, way):
    upright = by_pillow(WHOLE)
    (tmp_path / "a.jpg").write_bytes(jpeg(photograph((123, 91)), exif=turned(way)))
    image = decode(tmp_path / "a.jpg")
    expected = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True)}
    turns, mirrored = expected.get(way, (1, False))
    turned_back = torch.rot90(upright, turns, (1, 2))
    assert torch.equal(image, turned_back.flip(2) if mirrored else turned_back)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (90, 333), (64, 64)])
def test_cropped_and_resized_pixels_are_within_1_of_pillows_antialiased_ones(size):
    image = photograph(size)
    tensor, crop = torch.from_numpy(np.array(image)).permute(2, 0, 1), RandomResizedCrop(size=96)
    for seed in range(20):
        torch.manual_seed(seed)
        part = crop.sample_transform.make_params([tensor])
        torch.manual_seed(seed)
        found = crop.sample({"image": tensor})["image"]
        left, top = part["left"], part["top"]
        cut = image.crop((left, top, left + part["width"], top + part["height"]))
        expected = torch.from_numpy(np.array(cut.resize((96, 96), Image.Resampling.BILINEAR))).permute(2, 0, 1)
        assert (found.int() - expected.int()).abs().max() <= 1


def test_pixels_without_antialiasing_are_not_within_1():
    image = photograph((500, 375))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    plain = torch.nn.functional.interpolate(tensor, (96, 96), mode="bilinear")[0]
    expected = torch.from_numpy(np.array(image.resize((96, 96), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert (plain.int() - expected.int()).abs().max() > 20


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300)])
def test_evaluation_sees_pixels_within_1_of_pillows(size):
    image = photograph(size)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    found = decoding.resize_and_crop(tensor, image_size=112, crop_fraction=0.875)
    scale = 128 / min(size)
    resized = image.resize((round(size[0] * scale - 0.499), round(size[1] * scale - 0.499)), Image.Resampling.BILINEAR)
    left, top = (round((side - 112) / 2) for side in resized.size)
    expected = torch.from_numpy(np.array(resized.crop((left, top, left + 112, top + 112)))).permute(2, 0, 1)
    assert (found.int() - expected.int()).abs().max() <= 1
