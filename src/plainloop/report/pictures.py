"""Images with their labels as one picture, drawn by Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from plainloop.contracts import Batch, Sample

SIDE = 144  # pixels of a drawn image's longer side
COLUMNS = 8
GAP, LINE = 6, 15  # pixels between images, and of a line of text
LINES = 3  # of text below an image, at most
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)


def sheet(before: Batch, after: Batch, class_names: Sequence[str], *, title: str, num_images: int) -> Image.Image:
    """Each image above what became of it. Images are float in [0, 1]; labels class numbers or probabilities."""
    number = min(num_images, len(before["index"]))
    columns = min(COLUMNS, number)
    rows = [(batch, first) for first in range(0, number, columns) for batch in (before, after)]
    samples = [[sample_of(batch, i) for i in range(first, min(first + columns, number))] for batch, first in rows]
    pictures = [[drawn(sample) for sample in row] for row in samples]
    width = columns * (SIDE + GAP) + GAP
    texts = [[caption(sample, class_names)[:LINES] for sample in row] for row in samples]
    lines = [max(map(len, row)) for row in texts]
    heights = [max(p.height for p in row) + LINE * n + 2 * GAP for row, n in zip(pictures, lines, strict=True)]
    page = Image.new("RGB", (width, sum(heights) + LINE + 2 * GAP), PAPER)
    write = ImageDraw.Draw(page)
    write.text((GAP, GAP), shortened(title, width - 2 * GAP), INK, font())
    top = LINE + 2 * GAP
    for (batch, _), row, captions, height, number in zip(rows, pictures, texts, heights, lines, strict=True):
        for i, (picture, text) in enumerate(zip(row, captions, strict=True)):
            left = GAP + i * (SIDE + GAP)
            page.paste(picture, (left + (SIDE - picture.width) // 2, top))
            for line, words in enumerate(text):
                place = (left, top + height - 2 * GAP - LINE * (number - line))
                write.text(place, shortened(words, SIDE), INK if batch is after else FAINT, font())
        top += height
    return page


def sample_of(batch: Batch, row: int) -> Sample:
    return {name: tensor[row].cpu() for name, tensor in batch.items()}


def drawn(sample: Sample) -> Image.Image:
    """The image of a sample, enlarged without smoothing where it is small. Masks and boxes are to be drawn here."""
    pixels = (sample["image"].clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = SIDE / max(image.size)
    scale = int(scale) if scale >= 2 else min(scale, 1.0)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def caption(sample: Sample, class_names: Sequence[str]) -> list[str]:
    """The label: a class, or its shares, the largest first; [] for a sample without one."""
    label: Tensor | None = sample.get("label")
    if label is None:
        return []
    if label.ndim == 0:
        return [class_names[int(label)]]
    shares = [(float(share), class_names[number]) for number, share in enumerate(label) if share > 0.005]
    return [f"{share:.0%} {name}" for share, name in sorted(shares, reverse=True)]


def font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=12)


def shortened(text: str, width: int) -> str:
    """The text, cut to so many pixels, without control characters."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    if font().getlength(text) <= width:
        return text
    while text and font().getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
