"""Parts of images taken out, drawn for each image on the device that holds the batch.

`fill` is one number per channel in [0, 1]: the mean of the data set is what a normalized image has as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from plainloop.augment import draws
from plainloop.augment.settings import check_probability, check_range, constant, filling
from plainloop.contracts import Batch

TRIES = 10  # rectangles drawn for each image; the first that fits is taken
GRID = 32  # most cells of hide-and-seek in a direction


def cutout(batch: Batch, step: int, *, size: float = 0.5, p: float = 1.0, fill: Sequence[float] = (0.0,)) -> Batch:
    """Fills one square of each image (https://arxiv.org/abs/1708.04552).

    The centre is uniform over the image, so squares near the edge are cut off.

    Args:
        size: side of the square, as a share of the image's shorter side; 0.5 is the paper's 16 of 32 pixels.
        p: share of the images that are changed.
    """
    check_probability(size, "size")
    check_probability(p)
    height, width = batch["image"].shape[-2:]
    side = round(size * min(height, width))
    centre = draws.uniform(batch, 2)
    start = (centre * constant((height, width), centre.dtype, centre.device)).floor() - side // 2
    length = torch.full_like(start, side)
    return filled(batch, box(batch, start, length) & draws.chosen(batch, p)[:, None, None, None], fill)


def random_erasing(
    batch: Batch,
    step: int,
    *,
    p: float = 0.5,
    area: Sequence[float] = (0.02, 0.4),
    ratio: Sequence[float] = (0.3, 3.3333333333333335),
    mode: Literal["pixel", "const"] = "pixel",
    fill: Sequence[float] = (0.0,),
) -> Batch:
    """Overwrites a rectangle inside each image (https://arxiv.org/abs/1708.04896).

    The ratio is drawn on a logarithmic scale, as torchvision and timm do; the paper does not say. Of ten rectangles
    the first that fits is taken, and the image stays as it is where none does.

    Args:
        p: share of the images that are changed.
        area: share of the image's area, from and to.
        ratio: height by width, from and to.
        mode: `pixel` writes uniform noise (the paper's RE-R), `const` writes `fill`.
    """
    check_probability(p)
    check_range(area, "area", low=0, high=1)
    check_range(ratio, "ratio", low=1e-6)
    height, width = batch["image"].shape[-2:]
    share = draws.uniform(batch, TRIES, low=area[0], high=area[1]) * height * width
    shape = draws.log_uniform(batch, TRIES, low=ratio[0], high=ratio[1])
    lengths = torch.stack([(share * shape).sqrt().round(), (share / shape).sqrt().round()], dim=-1)  # (B, TRIES, 2)
    sides = constant((height, width), lengths.dtype, lengths.device)
    fits = ((lengths >= 1) & (lengths < sides)).all(-1)
    first = fits.byte().argmax(1)[:, None, None].expand(-1, 1, 2)
    length = lengths.gather(1, first)[:, 0]
    start = (draws.uniform(batch, 2) * (sides - length + 1)).floor()
    erased = box(batch, start, length) & (fits.any(1) & draws.chosen(batch, p))[:, None, None, None]
    if mode == "const":
        return filled(batch, erased, fill)
    return batch | {"image": torch.where(erased, draws.noise(batch).to(batch["image"].dtype), batch["image"])}


def gridmask(
    batch: Batch,
    step: int,
    *,
    unit: Sequence[float] = (0.43, 1.0),
    ratio: float = 0.6,
    p: float = 0.8,
    fill: Sequence[float] = (0.0,),
) -> Batch:
    """Fills a grid of squares (https://arxiv.org/abs/2001.04086), without the rotation that the authors' code has off.

    Args:
        unit: side of a unit of the grid as a share of the image's shorter side, from and to; the paper's 96 to 224
            pixels of 224.
        ratio: share of a unit's side that is kept; (1 - ratio)^2 of the image is filled.
        p: share of the images that are changed. The paper raises it from 0 to 0.8 during training.
    """
    check_range(unit, "unit", low=1e-3, high=10)
    check_probability(ratio, "ratio")
    check_probability(p)
    height, width = batch["image"].shape[-2:]
    side = (draws.uniform(batch, low=unit[0], high=unit[1]) * min(height, width)).clamp(min=2).floor()
    offset = (draws.uniform(batch, 2) * side[:, None]).floor()
    kept = (side * ratio).round()
    inside = []
    for number, size in enumerate((height, width)):
        position = torch.arange(size, device=side.device) + offset[:, number, None]
        inside.append(position % side[:, None] >= kept[:, None])
    squares = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    return filled(batch, squares & draws.chosen(batch, p)[:, None, None, None], fill)


def hide_and_seek(
    batch: Batch,
    step: int,
    *,
    cells: Sequence[int] = (0, 14, 7, 5, 4),
    hide: float = 0.5,
    p: float = 1.0,
    fill: Sequence[float] = (0.0,),
) -> Batch:
    """Hides each cell of a grid with a probability (https://arxiv.org/abs/1811.02545).

    Args:
        cells: of the grid in either direction; each image gets one of these numbers, and 0 hides nothing. The paper's
            patches of 16, 32, 44 and 56 of 224 pixels are 14, 7, 5 and 4 cells.
        hide: probability of a cell to be hidden.
        p: share of the images that are changed.
    """
    if not cells or min(cells) < 0 or max(cells) > GRID:
        raise ValueError(f"augment: cells={list(cells)} must be numbers from 0 to {GRID}")
    check_probability(hide, "hide")
    check_probability(p)
    height, width = batch["image"].shape[-2:]
    numbers = constant(tuple(cells), torch.int64, batch["image"].device)
    number = numbers[draws.integers(batch, below=len(cells))]  # (B,)
    hidden = draws.uniform(batch, GRID, GRID) < hide
    row = cell_of(height, number)[:, :, None].expand(-1, height, GRID)
    column = cell_of(width, number)[:, None, :].expand(-1, height, width)
    pixels = hidden.gather(1, row).gather(2, column)[:, None]
    return filled(batch, pixels & (draws.chosen(batch, p) & (number > 0))[:, None, None, None], fill)


def cell_of(size: int, number: Tensor) -> Tensor:
    """(B, size) int64: in which of `number` (B,) equal cells each pixel of a side lies.

    >>> cell_of(6, torch.tensor([2, 4])).tolist()
    [[0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 2, 3]]
    """
    return torch.arange(size, device=number.device) * number[:, None] // size


def box(batch: Batch, start: Tensor, length: Tensor) -> Tensor:
    """(B, 1, H, W) bool: inside the rectangles that begin at `start` (B, 2) and are `length` (B, 2) pixels long."""
    inside = []
    for number, size in enumerate(batch["image"].shape[-2:]):
        position = torch.arange(size, device=start.device)
        first, past = start[:, number, None], (start + length)[:, number, None]
        inside.append((position >= first) & (position < past))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def filled(batch: Batch, pixels: Tensor, fill: Sequence[float]) -> Batch:
    """The images with `fill` where `pixels` (B, 1, H, W) is true."""
    return batch | {"image": torch.where(pixels, filling(batch["image"], fill), batch["image"])}
