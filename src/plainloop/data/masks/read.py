"""Mask files to class numbers: (H, W) int64, IGNORE where there is no class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plainloop.contracts import IGNORE
from plainloop.data.loading.decode import DAMAGED, upright
from plainloop.errors import BadData

UNKNOWN = -1
VALUES = 65536  # of a mask with 16 bits
MOST_LOOKED_AT = 500  # masks, before a run starts


@dataclass(frozen=True)
class Reading:
    """How the values of mask files become classes.

    Args:
        table: (VALUES,), the class of each value, IGNORE or UNKNOWN.
        colours: (C, 3), the colour of each class in RGB masks; None: these are refused.
    """

    table: NDArray[np.int16]
    num_classes: int
    colours: NDArray[np.uint8] | None = None
    ignored_colour: tuple[int, ...] | None = None

    @property
    def digest(self) -> str:
        """Changes with whatever changes a class."""
        colours = b"" if self.colours is None else self.colours.tobytes()
        parts = (self.table.tobytes(), colours, repr(self.ignored_colour).encode())
        return blake2b(b"|".join(parts), digest_size=8).hexdigest()


def reading_of(
    num_classes: int,
    *,
    first_class: int,
    ignore_index: int | None,
    mask_values: Sequence[Sequence[int]] | None,
    palette: Sequence[Sequence[int]] | None,
    ignored_colour: Sequence[int] | None,
) -> Reading:
    """Raises ValueError for settings that cannot be."""
    table = np.full(VALUES, UNKNOWN, np.int16)
    values = {first_class + number: number for number in range(num_classes)}
    if mask_values is not None:
        if not all(len(pair) == 2 for pair in mask_values):
            raise ValueError("data.mask_values must be pairs of a value of the masks and its class, as [[0,0],[255,1]]")
        values = {pair[0]: pair[1] for pair in mask_values}
    if ignore_index is not None and ignore_index in values:
        raise ValueError(
            f"data.ignore_index={ignore_index} is a class; type data.ignore_index=null if every value is one"
        )
    for value, number in values.items():
        if not 0 <= value < VALUES or not (0 <= number < num_classes or number == IGNORE):
            raise ValueError(
                f"data.mask_values: [{value},{number}] must map a value of the masks to a class, 0 to "
                f"{num_classes - 1}, or to {IGNORE}, which is no class"
            )
        table[value] = number
    if ignore_index is not None:
        table[ignore_index] = IGNORE
    colours = None if palette is None else np.array(palette, np.uint8)
    if colours is not None and colours.shape != (num_classes, 3):
        raise ValueError(f"data.palette must have one colour [red, green, blue] for each of the {num_classes} classes")
    return Reading(table, num_classes, colours, None if ignored_colour is None else tuple(ignored_colour))


def read_mask(path: Path, reading: Reading) -> Tensor:
    """(H, W) int64. The numbers of a PNG with a palette are its classes, not its colours.

    Raises BadData for a damaged file, for colours without data.palette, and for values that are no class.
    """
    try:
        with Image.open(path) as opened:
            mode, pixels = opened.mode, np.asarray(upright(opened) if opened.getexif() else opened)
    except DAMAGED as error:
        raise BadData(
            f"{path} cannot be decoded ({type(error).__name__}: {error})", hint="mend this mask, or remove its image"
        ) from error
    if pixels.ndim == 3:
        return of_colours(path, mode, pixels[..., :3], reading)
    values = pixels.astype(np.int64)
    classes = reading.table[values.clip(0, VALUES - 1)]
    if (wrong := classes == UNKNOWN).any():
        y, x = (int(place[0]) for place in np.nonzero(wrong))
        unknown = np.unique(values[wrong]).tolist()
        more = " and more" if len(unknown) > 8 else ""
        raise BadData(
            f"{path} has values that are no class: {', '.join(map(str, unknown[:8]))}{more}, the first at x={x}, "
            f"y={y}; there are {reading.num_classes} classes",
            hint="map values to classes with data.mask_values=[[0,0],[255,1]], say which value is none with "
            "data.ignore_index, or add the class to data.class_names",
        )
    return torch.from_numpy(classes.astype(np.int64))


def require_second_class(paths: Sequence[Path], reading: Reading, ignored: int) -> None:
    """Of two classes: raises BadData where masks have the first one and `ignored` alone, as masks of 0 and 255 have.

    Looks at few of them: most often at the first alone.
    """
    looked_at = paths[:: -(-len(paths) // MOST_LOOKED_AT)]
    is_ignored = False
    for path in looked_at:
        try:
            mask = read_mask(path, reading)
        except BadData:
            return  # the run says it, or the survey
        if (mask == 1).any():
            return
        is_ignored |= bool((mask == IGNORE).any())
    if is_ignored:
        first, second = (int(np.flatnonzero(reading.table == number)[0]) for number in range(2))
        few = "" if len(looked_at) == len(paths) else f", of which {len(looked_at)} were looked at,"
        raise BadData(
            f"none of the {len(paths):,} training masks{few} has a pixel of the second class, whose value is {second}. "
            f"Such as {paths[0]} they have {ignored}, which is no class here: nothing can be learned",
            hint=f"if {ignored} is the second class, type 'data.mask_values=[[{first},0],[{ignored},1]]' "
            f"data.ignore_index=null; if it is none, type 'data.mask_values=[[{first},0],[{second},1]]'",
        )


def of_colours(path: Path, mode: str, pixels: NDArray[np.uint8], reading: Reading) -> Tensor:
    if reading.colours is None or pixels.shape[-1] < 3:
        raise BadData(
            f"{path} is a picture in colours (mode {mode}); expected one channel of class numbers",
            hint="say each class's colour with data.palette=[[0,0,0],[128,0,0],...]",
        )
    classes = np.full(pixels.shape[:2], UNKNOWN, np.int64)
    for number, colour in enumerate(reading.colours):
        classes[(pixels == colour).all(-1)] = number
    if reading.ignored_colour is not None:
        classes[(pixels == np.array(reading.ignored_colour)).all(-1)] = IGNORE
    if (wrong := classes == UNKNOWN).any():
        y, x = (int(place[0]) for place in np.nonzero(wrong))
        raise BadData(
            f"{path} has colours that are no class, the first at x={x}, y={y}: {pixels[y, x].tolist()}",
            hint="add it to data.palette, or type data.ignored_colour=[r,g,b] if it means no class",
        )
    return torch.from_numpy(classes)
