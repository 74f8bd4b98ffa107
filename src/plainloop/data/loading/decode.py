"""Image files to bytes: (3, H, W) uint8, RGB. Pillow reads what is not an ordinary JPEG."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.data.loading.jpeg import decode_jpeg, most_pixels
from plainloop.errors import BadData

# Decides the pixels; a cache that another version has written is not used.
VERSION = f"2, simplejpeg {version('simplejpeg')}, Pillow {version('pillow')}"

MEND = (
    "mend or delete this file (a run that has begun then goes on with data.allow_changed=true); "
    "or go on without images that cannot be read: data.on_bad_image=skip"
)

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow starts Ghostscript for others
LARGEST_FILE = 2**30  # bytes; the largest image that is decoded, with 16 bits and four channels, has 0.7 of it

# What Pillow raises for files that are cut off, altered or hostile.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # up to `most_pixels` images are welcome


def decode(path: Path, *, turned: bool = True) -> Tensor:
    """(3, H, W) uint8, channels last in memory, which is what resizing is fast on; `turned` as its EXIF says.

    Greys of 16 bits and floats are scaled to bytes, alpha is dropped, and of several pictures the first is taken.
    Raises BadData for a damaged file, one that is no image, and one of more than `most_pixels`.
    """
    try:
        content = content_of(path)
        if (ordinary := decode_jpeg(content, turned=turned)) is not None:
            return ordinary
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of odd files
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                image = to_rgb(upright(picture) if turned else picture)
    except UnidentifiedImageError as error:
        raise BadData(f"{path} cannot be decoded (it is no image of a known kind)", hint=MEND) from error
    except Image.DecompressionBombError as error:
        raise BadData(
            f"{path} {too_large()}",
            hint="its boxes or its mask, too; or go on without images that cannot be read: data.on_bad_image=skip",
        ) from error
    except DAMAGED as error:
        raise BadData(f"{path} cannot be decoded ({type(error).__name__}: {error})", hint=MEND) from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def too_large() -> str:
    pixels = f"{most_pixels() / 1e6:.0f} million pixels"
    return f"has more than {pixels}, the most that are decoded: make it smaller, or cut it into tiles"


def stored_size(path: Path) -> tuple[int, int] | None:
    """Height and width as stored; None where the file cannot be read: decoding it says what is wrong."""
    try:
        with opened(path) as file, Image.open(file) as image:
            return image.size[1], image.size[0]
    except DAMAGED:
        return None


def content_of(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


def opened(path: Path) -> BinaryIO:
    """Raises OSError for what is no file of an image's size, and does not wait for the other end of a pipe."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    status, why = os.fstat(file.fileno()), ""
    if not stat.S_ISREG(status.st_mode):
        why = "it is no regular file"
    elif status.st_size > LARGEST_FILE:
        why = f"a file of {status.st_size} bytes is too large for an image"
    if why:
        file.close()
        raise OSError(why)
    return file


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGED:
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
        grey = np.asarray(image, dtype=np.float64)
        white = 65535 if image.mode.startswith("I") else 255 if grey.max() > 1 else 1
        if not 0 <= grey.min() <= grey.max() <= white:
            raise ValueError(f"its greys go from {grey.min():g} to {grey.max():g}, beyond 0 and {white}")
        image = Image.fromarray(np.rint(grey / (white / 255)).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # or else Pillow warns; the alpha channel goes in the next line
    return image.convert("RGB")


def decode_at_most(path: Path, *, shorter_side: int | None, turned: bool = True) -> Tensor:
    """(3, H, W) uint8, resized if its shorter side is longer than so many pixels. Raises BadData for a damaged file."""
    return at_most(decode(path, turned=turned), shorter_side=shorter_side)


def at_most(image: Tensor, *, shorter_side: int | None) -> Tensor:
    if shorter_side is None or min(image.shape[1:]) <= shorter_side:
        return image
    return F.resize(image, [shorter_side], antialias=True)


def resize_and_crop(image: Tensor, *, image_size: int, crop_fraction: float) -> Tensor:
    """Resizes the shorter side to image_size / crop_fraction and cuts out the centre: (C, image_size, image_size)."""
    resized = F.resize(image, [int(image_size / crop_fraction)], antialias=True)
    return F.center_crop(resized, [image_size, image_size])
