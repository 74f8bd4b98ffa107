"""Files of any kind become upright RGB bytes."""

import contextlib
import os
import resource
import struct
import time
import zlib

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


def test_sixteen_bit_greys_are_scaled_and_not_cut_off(tmp_path):
    grey = np.array([[0, 257, 40_000, 65_535]], dtype=np.uint16)
    assert decode(written(tmp_path, Image.fromarray(grey)))[0].tolist() == [[0, 1, 156, 255]]


def test_a_palette_with_transparent_entries_becomes_rgb_without_a_warning(tmp_path, recwarn):
    image = Image.fromarray(RGB).convert("P")
    assert decode(written(tmp_path, image, transparency=bytes(range(200)))).shape == (3, 6, 9)
    assert not recwarn.list


GREY = RGB[..., 0]
ALPHA = RGB[..., 1]
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)


def of_palette():
    image = Image.fromarray(GREY, "P")
    image.putpalette(PALETTE.tobytes())
    return image


def cmyk():
    """(1 - c) (1 - k) of white, as for ink."""
    ink = np.dstack([RGB, GREY]).astype(float)
    return (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255


ZOO = {
    "L": ("a.png", Image.fromarray(GREY), np.dstack([GREY] * 3)),
    "LA": ("a.png", Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), np.dstack([GREY] * 3)),
    "RGBA": ("a.png", Image.fromarray(np.dstack([RGB, ALPHA])), RGB),
    "P": ("a.png", of_palette(), PALETTE[GREY]),
    "1": ("a.png", Image.fromarray(GREY > 127), np.dstack([(GREY > 127) * 255] * 3)),
    "CMYK": ("a.tiff", Image.fromarray(np.dstack([RGB, GREY]), "CMYK"), cmyk()),
    "I;16": ("a.tiff", Image.fromarray(GREY.astype(np.uint16) * 257), np.dstack([GREY] * 3)),
    "F of 255": ("a.tiff", Image.fromarray(GREY.astype(np.float32)), np.dstack([GREY] * 3)),
    "F of 1": ("a.tiff", Image.fromarray(GREY.astype(np.float32) / 255), np.dstack([GREY] * 3)),
    "webp": ("a.webp", Image.fromarray(RGB), RGB),
    "bmp": ("a.bmp", Image.fromarray(RGB), RGB),
    "ppm": ("a.ppm", Image.fromarray(RGB), RGB),
    "upper case, space, unicode": ("\u00e9t\u00e9 1.PNG", Image.fromarray(RGB), RGB),
    "1 x 1": ("a.png", Image.fromarray(RGB[:1, :1]), RGB[:1, :1]),
    "1 x 9": ("a.png", Image.fromarray(RGB[:1]), RGB[:1]),
}


@pytest.mark.parametrize("kind", ZOO)
def test_every_kind_has_the_pixels_that_it_means(tmp_path, kind):
    name, image, expected = ZOO[kind]
    lossless = {"lossless": True} if name.endswith("webp") else {}
    pixels = decode(written(tmp_path, image, name, **lossless)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1)  # where rounding is a matter of taste


def test_sixteen_bits_of_colour_are_scaled(tmp_path):
    wide = np.random.default_rng(0).integers(0, 65536, (4, 5, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    (tmp_path / "wide.png").write_bytes(png(5, 4, depth=16, rows=rows))
    pixels = decode(tmp_path / "wide.png").permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels, wide / 257, rtol=0, atol=1)


def test_a_portable_greymap_is_scaled_from_its_own_white(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1023\n" + np.array([0, 512, 1023], dtype=">u2").tobytes())
    assert decode(tmp_path / "a.pgm")[0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("pixels", [np.float32([[-1, 0.5]]), np.float32([[0, 300]]), np.int32([[0, 70000]])])
def test_greys_of_an_unknown_range_are_refused(tmp_path, pixels):
    with pytest.raises(BadData, match=r"its greys go from .* beyond 0 and"):
        decode(written(tmp_path, Image.fromarray(pixels), "a.tiff"))


TURNED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_exif_turns_the_image_upright(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path, Image.fromarray(RGB), name, exif=exif)
    straight = decode(written(tmp_path, Image.fromarray(RGB), f"straight {name}")).permute(1, 2, 0).numpy()
    assert np.array_equal(decode(path).permute(1, 2, 0).numpy(), TURNED[orientation](straight))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path, name):
    plain = decode(written(tmp_path, Image.fromarray(RGB), name))
    assert torch.equal(decode(written(tmp_path, Image.fromarray(RGB), name, exif=b"Exif\0\0garbage")), plain)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tiff", "gif named.png"])
def test_of_several_pictures_the_first_is_taken(tmp_path, name):
    first, second = Image.new("RGB", (4, 4), (10, 200, 30)), Image.new("RGB", (4, 4))
    how = {"lossless": True} if name.endswith("webp") else {"format": "GIF"} if "gif" in name else {}
    image = decode(written(tmp_path, first, name, save_all=True, append_images=[second] * 9, **how))
    assert (image == torch.tensor([10, 200, 30])[:, None, None]).all()


def test_a_progressive_jpeg_of_another_colour_profile_is_decoded_as_it_is(tmp_path):
    path = written(tmp_path, Image.fromarray(RGB), "a.jpg", progressive=True, icc_profile=bytes(200))
    assert torch.equal(decode(path), decode(written(tmp_path, Image.fromarray(RGB), "b.jpg")))


@pytest.mark.parametrize("name", ["image.jpg", "image.png", "image.webp", "image.bmp"])
def test_a_file_that_is_cut_off_anywhere_is_named(tmp_path, name):
    path = written(tmp_path, Image.fromarray(RGB.repeat(9, 0).repeat(9, 1)), name)
    whole = path.read_bytes()
    for tenth in range(20):
        path.write_bytes(whole[: len(whole) * tenth // 20])
        with pytest.raises(BadData, match=rf"{name} cannot be decoded"):
            decode(path)


def without_right(path):
    path.write_bytes(b"")
    path.chmod(0)


NO_FILES = {
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
    "no permission": without_right,
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_that_can_be_read_is_named_at_once(tmp_path, make):
    make(tmp_path / "image.jpg")
    with as_nobody(), pytest.raises(BadData, match=r"image.jpg cannot be decoded \(\w*Error: "):
        decode(tmp_path / "image.jpg")


@contextlib.contextmanager
def as_nobody():
    """Root may read everything."""
    before = os.geteuid()
    try:
        os.seteuid(65534 if before == 0 else before)
        yield
    finally:
        os.seteuid(before)


def png(width, height, *, depth=8, rows=b"", extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg(width, height, tmp_path):
    """A small one whose header says that it is large."""
    content = bytearray(written(tmp_path, Image.fromarray(RGB), "small.jpg").read_bytes())
    place = content.find(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


BOMBS = {
    "180 MP png": lambda tmp_path: png(13400, 13400, rows=bytes(1000)),
    "400 MP png": lambda tmp_path: png(20000, 20000, rows=bytes(1000)),
    "180 MP jpeg": lambda tmp_path: jpeg(13400, 13400, tmp_path),
    "400 MP jpeg": lambda tmp_path: jpeg(20000, 20000, tmp_path),
    "text": lambda tmp_path: png(9, 6, extra=chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(60_000_000)))),
    "program": lambda tmp_path: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content(tmp_path))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(BadData, match=r"more than 179 million pixels|too large|no image of a known kind"):
        decode(tmp_path / "image.png")
    assert time.process_time() - began < 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with open(tmp_path / "image.png", "wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(BadData, match="a file of 1073741825 bytes is too large for an image"):
        decode(tmp_path / "image.png")


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
