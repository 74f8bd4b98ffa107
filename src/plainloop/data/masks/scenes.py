"""Small photographs with handwritten digits in them, made from real pixels: what each pixel belongs to is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

DIGITS, DISTRACTORS = (2, 5), (1, 3)  # in a scene: from, and below
SIDES = (0.35, 0.5)  # of an object, as shares of the scene's side
TURN = 15  # degrees, at most, in either direction
INK = 0.25  # grey of a digit, 0 to 1, at which its edge is
CONTRAST = 80  # least distance of an object's colour from what it covers, in one channel of 255
TRIES = 20  # places drawn for an object, and colours


@dataclass(frozen=True)
class Sources:
    """What scenes are made of; training and validation have none of it in common.

    Args:
        glyphs: (N, 8, 8) in [0, 1].
        labels: (N,), the digits.
        photographs: (H, W, 3) each.
    """

    glyphs: Floats
    labels: NDArray[np.int64]
    photographs: Sequence[Bytes]


@dataclass(frozen=True)
class Scene:
    """An image (S, S, 3), and the pixels (N, S, S) bool and classes (N,) of the digits in it: digit + 1."""

    image: Bytes
    pixels: NDArray[np.bool_]
    classes: NDArray[np.int64]

    @cached_property
    def mask(self) -> Bytes:
        """(S, S): the class of each pixel, 0 where no digit is. Digits do not overlap."""
        return (self.pixels * self.classes[:, None, None]).sum(0).astype(np.uint8)

    @property
    def boxes(self) -> Floats:
        """(N, 4): x0 y0 x1 y1 around the pixels of each digit; a pixel reaches from i to i + 1."""
        ends = [[covered.any(axis).nonzero()[0] for axis in (0, 1)] for covered in self.pixels]
        corners = [[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in ends]
        return np.array(corners, np.float32).reshape(-1, 4)


def make_scene(sources: Sources, size: int, draw: np.random.Generator) -> Scene:
    """Digits, and digits whose quarters are in another order as distractors, pasted on a part of a photograph."""
    canvas = background(sources.photographs, size, draw)
    digits, distractors = int(draw.integers(*DIGITS)), int(draw.integers(*DISTRACTORS))
    boxes: list[tuple[int, int, int]] = []
    pixels, classes = [], []
    for is_digit in draw.permutation([True] * digits + [False] * distractors):
        number = int(draw.integers(len(sources.glyphs)))
        glyph = sources.glyphs[number] if is_digit else scrambled(sources.glyphs[number], draw)
        side = round(size * draw.uniform(*SIDES))
        box = free_box(boxes, size, side, draw)
        if box is None:
            continue
        boxes.append(box)
        place = (slice(box[0], box[0] + side), slice(box[1], box[1] + side))
        opacity = rendered(glyph, side, draw.uniform(-TURN, TURN))
        ink = filling(canvas[place], sources.photographs, draw)
        canvas[place] += opacity[..., None] * (ink - canvas[place])
        if is_digit:
            covered = np.zeros((size, size), bool)
            covered[place] = opacity > 0.5
            pixels.append(covered)
            classes.append(int(sources.labels[number]) + 1)
    image = np.rint(canvas).clip(0, 255).astype(np.uint8)
    return Scene(image, np.array(pixels, bool).reshape(-1, size, size), np.array(classes, np.int64))


def background(photographs: Sequence[Bytes], size: int, draw: np.random.Generator) -> Floats:
    """(size, size, 3): a square of a photograph, mirrored and with its channels in any order."""
    side = int(draw.integers(size // 2, min(photographs[0].shape[:2]) + 1))
    part = part_of(photographs, side, draw)[:, :: int(draw.choice([-1, 1])), draw.permutation(3)]
    resized = Image.fromarray(np.ascontiguousarray(part)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32).copy()


def part_of(photographs: Sequence[Bytes], side: int, draw: np.random.Generator) -> Bytes:
    """(side, side, 3): a square of one of the photographs."""
    photograph = photographs[int(draw.integers(len(photographs)))]
    top, left = (int(draw.integers(length - side + 1)) for length in photograph.shape[:2])
    return photograph[top : top + side, left : left + side]


def free_box(
    boxes: Sequence[tuple[int, int, int]], size: int, side: int, draw: np.random.Generator
) -> tuple[int, int, int] | None:
    """Top, left and side of a square that overlaps none of the boxes; None if none of those drawn is free."""
    for top, left in draw.integers(size - side + 1, size=(TRIES, 2)).tolist():
        if all(top >= y + s or y >= top + side or left >= x + s or x >= left + side for y, x, s in boxes):
            return top, left, side
    return None


def scrambled(glyph: Floats, draw: np.random.Generator) -> Floats:
    """The four quarters in another order, each mirrored or not: strokes as in a digit, but no digit."""
    half = len(glyph) // 2
    quarters = [glyph[i : i + half, j : j + half] for i in (0, half) for j in (0, half)]
    turned = [q[:: int(draw.choice([-1, 1])), :: int(draw.choice([-1, 1]))] for q in quarters]
    a, b, c, d = (turned[i] for i in np.roll(np.arange(4), int(draw.integers(1, 4))))
    return np.block([[a, b], [c, d]])


def rendered(glyph: Floats, side: int, degrees: float) -> Floats:
    """(side, side): how much of each pixel the strokes cover, in [0, 1]."""
    large = Image.fromarray(np.pad(glyph, 1)).resize((side, side), Image.Resampling.BICUBIC)
    turned = np.asarray(large.rotate(degrees, Image.Resampling.BILINEAR), dtype=np.float32)
    return ((turned - INK) * 5 + 0.5).clip(0, 1)


def filling(covered: Floats, photographs: Sequence[Bytes], draw: np.random.Generator) -> Floats:
    """A colour that differs from what it covers, with the texture of a photograph."""
    mean = covered.mean((0, 1))
    for _ in range(TRIES):
        colour = draw.uniform(0, 255, 3).astype(np.float32)
        if np.abs(colour - mean).max() >= CONTRAST:
            break
    texture = part_of(photographs, len(covered), draw)
    return colour + 0.5 * (texture - texture.mean((0, 1)))
