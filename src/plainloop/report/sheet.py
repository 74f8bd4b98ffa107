"""Pictures of samples in rows, with what is said of them below, and the colours of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from plainloop.contracts import IGNORE, Batch, Sample
from plainloop.report.pictures import (
    FAINT,
    INK,
    LARGE_SIDE,
    LINE,
    NOT_COUNTED,
    PAPER,
    SIDE,
    UNCOUNTED,
    colour,
    drawn,
    font,
    object_colour,
    shortened,
    tinted,
    uncounted,
)

COLUMNS, FEWER_COLUMNS = 8, 4  # images in a row; the second where they have masks or boxes
GAP, LINES = 6, 3  # pixels between images; lines of text below an image, at most


def sheet(before: Batch, after: Batch, class_names: Sequence[str], *, title: str, num_images: int) -> Image.Image:
    """Each image above what became of it. Images are float in [0, 1]; labels class numbers or probabilities."""
    number = min(num_images, len(before["index"]))
    kinds = [[sample_of(batch, i) for i in range(number)] for batch in (before, after)]
    texts = [[caption(sample, class_names) for sample in samples] for samples in kinds]
    return page(kinds, texts, class_names, title=title)


def page(
    kinds: Sequence[Sequence[Sample]], texts: Sequence[Sequence[list[str]]], class_names: Sequence[str], *, title: str
) -> Image.Image:
    """Samples in rows with texts below them. Of several kinds, those of the same place stand below one another."""
    number = len(kinds[0])
    has_places = "mask" in kinds[0][0] or "boxes" in kinds[0][0]
    side, most = (LARGE_SIDE, FEWER_COLUMNS) if has_places else (SIDE, COLUMNS)
    columns = min(most, number)
    rows = [(kind, first) for first in range(0, number, columns) for kind in range(len(kinds))]
    samples = [kinds[kind][first : first + columns] for kind, first in rows]
    pictures = [[drawn(sample, class_names, side=side) for sample in row] for row in samples]
    width = columns * (side + GAP) + GAP
    below_images = [[lines[:LINES] for lines in texts[kind][first : first + columns]] for kind, first in rows]
    lines = [max(map(len, row)) for row in below_images]
    heights = [max(p.height for p in row) + LINE * n + 2 * GAP for row, n in zip(pictures, lines, strict=True)]
    below = legend([sample for row in samples for sample in row], class_names, width)
    page = Image.new("RGB", (width, sum(heights) + LINE + 2 * GAP + below.height), PAPER)
    write = ImageDraw.Draw(page)
    write.text((GAP, GAP), shortened(title, width - 2 * GAP), INK, font())
    top = LINE + 2 * GAP
    for (kind, _), row, captions, height, number in zip(rows, pictures, below_images, heights, lines, strict=True):
        for i, (picture, text) in enumerate(zip(row, captions, strict=True)):
            left = GAP + i * (side + GAP)
            page.paste(picture, (left + (side - picture.width) // 2, top))
            for line, words in enumerate(text):
                place = (left, top + height - 2 * GAP - LINE * (number - line))
                write.text(place, shortened(words, side), INK if kind == len(kinds) - 1 else FAINT, font())
        top += height
    page.paste(below, (0, top))
    return page


def caption(sample: Sample, class_names: Sequence[str]) -> list[str]:
    """The label: a class, or its shares, the largest first; how many objects there are; [] for a sample without any."""
    label: Tensor | None = sample.get("label")
    if label is None and "boxes" in sample:
        number = int(sample["box_valid"].sum()) if "box_valid" in sample else len(sample["boxes"])
        out = int(uncounted(sample).sum())
        return [f"{number or 'no'} object{'s' * (number != 1)}" + (f", {out} {NOT_COUNTED}" if out else "")]
    if label is None:
        return []
    if label.ndim == 0:
        return [class_names[int(label)]]
    shares = [(float(share), class_names[number]) for number, share in enumerate(label) if share > 0.005]
    return [f"{share:.0%} {name}" for share, name in sorted(shares, reverse=True)]


def legend(samples: Iterable[Sample], class_names: Sequence[str], width: int) -> Image.Image:
    """The colours of the classes in the samples' masks, or of their boxes, with their names, in rows; of height 0
    without any.
    """
    samples = list(samples)
    numbers = sorted({int(one) for sample in samples if "mask" in sample for one in sample["mask"].unique()})
    of_boxes = sorted({int(one) for sample in samples for one in labels_of_boxes(sample)}) if class_names else []
    squares = [(mask_square(number), "no class" if number == IGNORE else number) for number in numbers]
    squares += [(Image.new("RGB", (LINE, LINE), object_colour(number)), number) for number in of_boxes]
    if any(uncounted(sample).any() for sample in samples):
        squares.append((Image.new("RGB", (LINE, LINE), UNCOUNTED), NOT_COUNTED))
    items, left, top = [], GAP, GAP
    for square, named in squares:
        text = named if isinstance(named, str) else class_names[named] if class_names else str(named)
        text = shortened(text, width - 2 * GAP - LINE)
        wide = LINE + GAP + int(font().getlength(text)) + 2 * GAP
        if left + wide > width and left > GAP:
            left, top = GAP, top + LINE + GAP
        items.append((square, text, left, top))
        left += wide
    page = Image.new("RGB", (width, top + LINE + GAP if items else 0), PAPER)
    write = ImageDraw.Draw(page)
    for square, text, left, top in items:
        page.paste(square, (left, top))
        write.text((left + LINE + GAP, top), text, INK, font())
    return page


def mask_square(number: int) -> Image.Image:
    """A class of a mask as it is drawn on white, with an edge."""
    square = Image.fromarray(tinted(np.full((LINE, LINE, 3), 255, np.uint8), np.full((LINE, LINE), number, np.uint8)))
    drawn_so = number not in (0, IGNORE)
    edge = colour(number) if drawn_so else FAINT
    ImageDraw.Draw(square).rectangle((0, 0, LINE - 1, LINE - 1), outline=edge, width=1 + drawn_so)
    return square


def labels_of_boxes(sample: Sample) -> list[int]:
    if "boxes" not in sample or "box_label" not in sample:
        return []
    valid = sample.get("box_valid", torch.ones(len(sample["boxes"]), dtype=torch.bool))
    return [int(one) for one in sample["box_label"][valid.bool() & ~uncounted(sample)].unique()]


def sample_of(batch: Batch, row: int) -> Sample:
    return {name: tensor[row].cpu() for name, tensor in batch.items()}
