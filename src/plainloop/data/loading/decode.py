"""Image files to bytes: (3, H, W) uint8, upright, RGB. Pillow reads what is not an ordinary JPEG."""

from __future__ import annotations

import struct
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.data.loading.jpeg import decode_jpeg
from plainloop.errors import BadData

# Decides the pixels; a cache that another version has written is not used.
VERSION = f"simplejpeg {version('simplejpeg')}, Pillow {version('pillow')}"

MEND = "mend or delete this file; or go on without images that cannot be read: data.on_bad_image=skip"

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


def decode(path: Path) -> Tensor:
    """(3, H, W) uint8, channels last in memory, which is what resizing is fast on; turned as its EXIF says.

    16-bit greys are scaled to bytes. Raises BadData for a damaged file.
    """
    try:
        if (ordinary := decode_jpeg(path.read_bytes())) is not None:
            return ordinary
        with Image.open(path) as opened:
            image = to_rgb(ImageOps.exif_transpose(opened))
    except DAMAGED as error:
        raise BadData(f"{path} cannot be decoded ({type(error).__name__}: {error})", hint=MEND) from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would cut 16-bit greys off at 255
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        image = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # or else Pillow warns; the alpha channel goes in the next line
    return image.convert("RGB")


def decode_at_most(path: Path, *, shorter_side: int) -> Tensor:
    """(3, H, W) uint8, resized if its shorter side is longer than so many pixels. Raises BadData for a damaged file."""
    image = decode(path)
    return F.resize(image, [shorter_side], antialias=True) if min(image.shape[1:]) > shorter_side else image


def resize_and_crop(image: Tensor, *, image_size: int, crop_fraction: float) -> Tensor:
    """Resizes the shorter side to image_size / crop_fraction and cuts out the centre: (C, image_size, image_size)."""
    resized = F.resize(image, [int(image_size / crop_fraction)], antialias=True)
    return F.center_crop(resized, [image_size, image_size])
