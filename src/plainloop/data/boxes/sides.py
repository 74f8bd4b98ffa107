"""What images are resized to fit: a square, or a rectangle, which is wide or tall as the images of its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plainloop.contracts import SampleTransform
from plainloop.errors import BadConfig

Size = tuple[int, int]  # height and width


def sides_of(image_size: int | Sequence[int]) -> tuple[int, int]:
    """The shorter and the longer side of `data.image_size`, in pixels.

    >>> sides_of(416), sides_of([800, 1333])
    ((416, 416), (800, 1333))

    Raises ValueError.
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    shown = f"data.image_size={typed(image_size)}"
    if len(sides) != 2:
        raise ValueError(
            f"{shown} must be one number, for a square, or two, the shorter and the longer side of a rectangle; "
            "type data.image_size=[800,1333], or data.image_size=800"
        )
    if not isinstance(image_size, int) and min(sides) < 1:
        raise ValueError(f"{shown} must be sides of at least 1 pixel; type data.image_size=[800,1333]")
    if sides[0] > sides[1]:
        raise ValueError(f"{shown} must have the shorter side first; type data.image_size=[{sides[1]},{sides[0]}]")
    return sides[0], sides[1]


def typed(image_size: int | Sequence[int]) -> str:
    """As a person types it.

    >>> typed(416), typed([800, 1333])
    ('416', '[800,1333]')
    """
    return str(image_size if isinstance(image_size, int) else list(image_size)).replace(" ", "")


def frame_of(sides: Size, *, tall: bool) -> Size:
    """What a wide image is resized to fit, or a tall one.

    >>> frame_of((800, 1333), tall=False), frame_of((800, 1333), tall=True)
    ((800, 1333), (1333, 800))
    """
    return (sides[1], sides[0]) if tall else sides


def factor_of(height: int, width: int, frame: Size) -> float:
    """Pixels of the frame for each of an image that is resized to fit in.

    >>> factor_of(480, 640, (416, 416)), factor_of(208, 104, (416, 416))
    (0.65, 2.0)
    """
    return min(frame[0] / height, frame[1] / width)


def plan_line(sides: Size, sizes: NDArray[np.int32]) -> str:
    """sizes: (N, 2), height and width of the training images."""
    tall, (short, long) = int((sizes[:, 0] > sizes[:, 1]).sum()), sides
    wide = f"wide images, {short} high and {long} wide ({len(sizes) - tall:,} of train)"
    return f"a batch has {wide}, or tall ones, {long} high and {short} wide ({tall:,})"


def refuse_sized(name: str, transform: SampleTransform, sides: Size) -> None:
    """Raises BadConfig for a transform that gives all images one size, where wide and tall ones have two."""
    owner = getattr(transform, "__self__", transform)
    owner = getattr(owner, "transform", owner)  # of torchvision
    if getattr(owner, "size", None):
        raise BadConfig(
            f"augment.{name}: {type(owner).__name__} gives all images one shape, and data.image_size={typed(sides)} "
            f"makes wide and tall ones; leave this entry out, or use a square with data.image_size={sides[1]}",
            hint=f"~augment.{name}",
        )
