"""Ordinary JPEGs by libjpeg-turbo: the pixels that Pillow gives, in two thirds of its time."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import simplejpeg
import torch
from PIL import Image
from torch import Tensor

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
SIDEWAYS = 5  # values from here on swap width and height
EXIF_SEGMENT = b"\xff\xe1"  # then two bytes of length, and the start
START_OF_EXIF = b"Exif\0\0"
EXIF_WITHIN = 70_000  # bytes; it is in the first segments of a file


def decode_jpeg(content: bytes, *, turned: bool = True) -> Tensor | None:
    """(3, H, W) uint8, channels last in memory; None for all that Pillow has to judge.

    That is: no JPEG, a damaged one, one to be turned where that is wanted, one with four colours, a bomb.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours in ("CMYK", "YCCK") or height * width > most_pixels() or (turned and not is_upright(content)):
            return None
        return torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)
    except (ValueError, SyntaxError, struct.error):
        return None


def most_pixels() -> float:
    """Of more, Pillow raises: a small file may hide gigabytes. It warns from half of it on."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf


def is_upright(content: bytes) -> bool:
    start = content.find(START_OF_EXIF, 0, EXIF_WITHIN)
    if start < 0 or content[start - 4 : start - 2] != EXIF_SEGMENT:
        return True
    exif = Image.Exif()
    exif.load(content[start : start + int.from_bytes(content[start - 2 : start]) - 2])
    return exif.get(ORIENTATION, 1) == 1


def orientation_of(path: Path) -> int:
    """How the EXIF of an image turns it, 2 to 8; 1 is upright, and what cannot be read is taken to be so."""
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and "exif" not in image.info:  # getexif would decode all of it, to look behind it
                return 1
            found = int(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError):
        return 1
    return found if found in range(2, 9) else 1
