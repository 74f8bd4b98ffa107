"""What one image is like: read and decoded as training does, by the workers of a survey."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.data.loading.decode import DAMAGED, decode, too_large
from plainloop.data.loading.jpeg import ORIENTATION, decode_jpeg
from plainloop.errors import BadData

THUMB, LARGE_THUMB = 56, 288  # pixels of the small pictures: squares, and the longer side of whole images
TINY = 16  # pixels; photographs with a shorter side than this are usually a mistake
LONG = 4  # times as wide as high, or the reverse

# What becomes of the modes of Pillow that are not RGB.
MODES = {
    **dict.fromkeys(("L", "1"), "grey"),
    **dict.fromkeys(("LA", "La", "RGBA", "RGBa", "PA"), "transparent: the alpha channel is dropped"),
    **dict.fromkeys(("CMYK", "YCCK"), "CMYK: converted without a colour profile"),
    "P": "palette",
    "F": "floating point: cut off below 0 and above 255",
}
SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",), "WEBP": (".webp",)}
SUFFIXES |= {"TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm"), "GIF": (".gif",)}


@dataclass(frozen=True)
class Objects:
    """Those of one image, in pixels of the file."""

    boxes: NDArray[np.float32]  # (N, 4) x0 y0 x1 y1
    label: NDArray[np.int64]  # (N,)
    area: NDArray[np.float32]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,)


@dataclass(frozen=True)
class Looked:
    """One image. Where it cannot be read, `problem` says why and the rest is empty."""

    split: str
    name: str
    label: int  # -1: the set has none
    problem: str = ""
    notes: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    digest: str = ""  # of the file's bytes, or of the pixels where there is no file
    mean: tuple[float, ...] = ()  # of each channel, in [0, 1]
    square: tuple[float, ...] = ()  # mean of the squares
    thumb: NDArray[np.uint8] | None = None  # (THUMB, THUMB, C), or the whole image where it has objects
    pixels: Mapping[int, int] | None = None  # of each class in the image's mask, IGNORE included; None: it has no mask
    objects: Objects | None = None  # None: the set has labels or masks

    @property
    def place(self) -> str:
        """As texts name it: images with labels are in a folder of their split, others anywhere in data.root."""
        return f"{self.split}/{self.name}" if self.label >= 0 else f"{self.split}: {self.name}"


def look_at_file(path: Path, looked: Looked, *, thumb: bool) -> Looked:
    split, name, label = looked.split, looked.name, looked.label
    try:
        content = content_of(path)
        turned = looked.objects is None  # boxes are for pixels as stored
        ordinary = decode_jpeg(content, turned=turned)
        notes = notes_on(content, path.suffix, turned=turned, checked=ordinary is not None)
        image = decode(path, turned=turned) if ordinary is None else ordinary
    except BadData as error:
        return Looked(split, name, label, problem=str(error).replace(f"{path} ", ""))
    except UnidentifiedImageError:
        return Looked(split, name, label, problem="cannot be decoded (it is no image of a known kind)")
    except Image.DecompressionBombError:
        return Looked(split, name, label, problem=too_large())
    except DAMAGED as error:
        return Looked(split, name, label, problem=f"cannot be decoded ({type(error).__name__}: {error})")
    return look_at_pixels(image, looked, digest=digest_of(content), notes=notes, thumb=thumb)


def look_at_pixels(
    image: Tensor, looked: Looked, *, digest: str = "", notes: tuple[str, ...] = (), thumb: bool
) -> Looked:
    """image (C, H, W) uint8."""
    height, width = image.shape[1:]
    values = image.flatten(1).numpy().reshape(len(image), -1)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in values]) / values.shape[1]
    steps = np.arange(256) / 255
    if min(height, width) < TINY < 256 and digest:
        notes = (*notes, f"tiny: {width} x {height}")
    elif max(height, width) > LONG * min(height, width):
        notes = (*notes, f"long: {width} x {height}")
    return Looked(
        looked.split,
        looked.name,
        looked.label,
        notes=notes,
        width=width,
        height=height,
        digest=digest or digest_of(image.contiguous().numpy().tobytes()),
        mean=tuple((counts @ steps).tolist()),
        square=tuple((counts @ steps**2).tolist()),
        thumb=None if not thumb else small(image) if looked.objects is None else whole(image),
        pixels=looked.pixels,
        objects=looked.objects,
    )


def pixels_of(mask: Tensor) -> dict[int, int]:
    """
    >>> pixels_of(torch.tensor([[0, 0], [2, 255]]))
    {0: 2, 2: 1, 255: 1}
    """
    counts = torch.bincount(mask.flatten()).tolist()
    return {number: count for number, count in enumerate(counts) if count}


def content_of(path: Path) -> bytes:
    """The bytes of a file. Raises BadData for what is none, without waiting for it: reading a pipe would."""
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            raise BadData("is a folder" if stat.S_ISDIR(kind) else "is no file, but a pipe, socket or device")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BadData("is a link to a file that is not there" if path.is_symlink() else "is not there") from error
    except PermissionError as error:
        raise BadData("may not be read: no permission") from error
    if not content:
        raise BadData("is empty (0 bytes)")
    return content


def notes_on(content: bytes, suffix: str, *, turned: bool, checked: bool) -> tuple[str, ...]:
    """What is odd about a file that can be opened. Raises BadData for a JPEG of which libjpeg repairs the data.

    Args:
        checked: it is an ordinary JPEG without damage.
    """
    notes = []
    with Image.open(BytesIO(content)) as image:
        form = image.format or "?"
        if suffix.lower() not in SUFFIXES.get(form, (suffix.lower(),)):
            notes.append(f"a {form} file with the ending {suffix}")
        if image.mode.startswith("I"):
            notes.append("16 bits: scaled to 8")
        elif image.mode in MODES:
            notes.append(MODES[image.mode])
        if image.getexif().get(ORIENTATION, 1) != 1:
            notes.append(
                "turned as its EXIF says" if turned else "not turned as its EXIF says: boxes are for pixels as stored"
            )
        if getattr(image, "is_animated", False):
            notes.append("several pictures: the first is used")
        if form == "JPEG" and image.mode != "CMYK" and not checked:
            try:
                simplejpeg.decode_jpeg(content, strict=True)
            except ValueError as error:
                raise BadData(f"is damaged inside ({error}); it decodes to wrong pixels") from error
    return tuple(notes)


def digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def small(image: Tensor) -> NDArray[np.uint8]:
    """(THUMB, THUMB, C): the centre; small images are enlarged without smoothing."""
    way = F.InterpolationMode.NEAREST if min(image.shape[1:]) < THUMB else F.InterpolationMode.BILINEAR
    square = F.center_crop(image, [min(image.shape[1:])] * 2)
    pixels: NDArray[np.uint8] = (
        F.resize(square, [THUMB, THUMB], interpolation=way).to(torch.uint8).permute(1, 2, 0).numpy()
    )
    return np.ascontiguousarray(pixels)


def whole(image: Tensor) -> NDArray[np.uint8]:
    """(h, w, C), at most LARGE_THUMB pixels on the longer side."""
    height, width = image.shape[1:]
    factor = min(1.0, LARGE_THUMB / max(height, width))
    size = [max(1, round(side * factor)) for side in (height, width)]
    pixels: NDArray[np.uint8] = F.resize(image, size).to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels)
