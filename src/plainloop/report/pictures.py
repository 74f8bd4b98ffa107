"""Images with their labels, masks and boxes as one picture, drawn by Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from plainloop.contracts import IGNORE, Sample

SIDE, LARGE_SIDE = 144, 288  # pixels of a drawn image's longer side; the second with masks or boxes
LINE, LETTERS = 15, 12  # pixels of a line of text, and of its letters
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)
UNCOUNTED, NOT_COUNTED = (150, 150, 150), "not counted"  # groups of objects, and difficult ones
MOST_NAMED = 12  # objects: more names in a picture of this size hide it; the legend of a page has the colours
MOST_OBJECTS = 30  # of a prediction in one picture: a model that has learned little finds 100 on top of each other
TINT, OBJECT_TINT = 0.45, 0.3  # of a class's colour over the image; objects lie on each other
Colour = tuple[int, int, int]
# The first classes have colours that colour-blind people can tell apart (Okabe and Ito 2008).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def drawn(
    sample: Sample, class_names: Sequence[str] = (), *, side: int = SIDE, colours: Sequence[Colour] | None = None
) -> Image.Image:
    """The image of a sample with its mask and its objects, enlarged without smoothing where it is small.

    Each class of a mask has a tint and an outline, but for class 0, usually the background, which stays as it is.
    Pixels without a class are hatched. Boxes carry the names of their classes, and `box_score` where there is one;
    `instance_mask` has the tint and outline of the object's class. `colours` of the objects replace those of classes.
    """
    pixels = (sample["image"].clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    width, height = image.size
    scale = side / max(image.size)
    scale = int(scale) if scale >= 2 else min(scale, 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    if "mask" in sample:
        classes = Image.fromarray(sample["mask"].to(torch.uint8).numpy()).resize(size, Image.Resampling.NEAREST)
        picture = Image.fromarray(tinted(np.array(picture), np.array(classes)))
    if "instance_mask" in sample:
        order = drawing_order(sample)
        masks = (np.array(Image.fromarray(sample["instance_mask"][i].numpy()).resize(size)) for i in order)
        over = object_colours(sample) if colours is None else colours
        picture = Image.fromarray(with_objects(np.array(picture), masks, [over[i] for i in order]))
    if "boxes" in sample:
        factors = torch.tensor([size[0] / width, size[1] / height] * 2)
        draw_boxes(picture, sample | {"boxes": sample["boxes"] * factors}, class_names, colours=colours)
    return picture


def tinted(pixels: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """pixels (H, W, 3), classes (H, W). Outlines are two pixels wide, and white where they touch class 0."""
    over = np.array([colour(number) for number in range(256)], np.float32)[classes]
    share = TINT * (classes != 0)
    share[beside_another(classes, 2) & (classes != 0)] = 1
    ends = beside_another(classes, 1) & (classes == 0)
    lines = (np.add(*np.indices(classes.shape)) % 8 < 2) & (classes == IGNORE)
    over[ends | (classes == IGNORE)] = PAPER
    over[lines] = FAINT
    share[ends | lines] = 1
    return (pixels * (1 - share[..., None]) + over * share[..., None]).round().astype(np.uint8)


def beside_another(classes: NDArray[Any], distance: int) -> NDArray[np.bool_]:
    """(H, W): the pixels that have another class within this distance, up, down, left or right."""
    padded = np.pad(classes, distance, mode="edge")
    height, width = classes.shape
    found = np.zeros(classes.shape, np.bool_)
    for shift in (*range(-distance, 0), *range(1, distance + 1)):
        for down, right in ((shift, 0), (0, shift)):
            top, left = distance + down, distance + right
            found |= padded[top : top + height, left : left + width] != classes
    return found


def with_objects(
    pixels: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]], colours: Sequence[Colour]
) -> NDArray[np.uint8]:
    """A copy of pixels (H, W, 3) with a tint and an outline for the mask (H, W) of each object, the last on top."""
    pixels, line = pixels.copy(), line_width(pixels.shape[:2])
    for mask, over in zip(masks, colours, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if not len(rows):
            continue
        ends = [(max(0, where[0] - line), where[-1] + 1 + line) for where in (rows, columns)]  # and what is beside it
        part = tuple(slice(*end) for end in ends)
        inside = mask[part]
        share = OBJECT_TINT * inside
        share[inside & beside_another(inside, line)] = 1
        tint = np.array(over, np.float32)
        pixels[part] = (pixels[part] * (1 - share[..., None]) + tint * share[..., None]).round()
    return pixels


def draw_boxes(
    picture: Image.Image, sample: Sample, class_names: Sequence[str], *, colours: Sequence[Colour] | None = None
) -> None:
    """The boxes of a sample that `drawing_order` has; they are in pixels of the picture.

    Lines and letters are larger in larger pictures. A thin dark or light edge shows each colour on any picture. Where
    there are many objects, none has its name.
    """
    write, boxes, line, letters = ImageDraw.Draw(picture), sample["boxes"], line_width(picture.size), font(picture.size)
    height = round(letters.size * LINE / LETTERS)
    scores, labels = sample.get("box_score"), sample.get("box_label")
    order, colours = drawing_order(sample), object_colours(sample) if colours is None else colours
    for i in order:
        x0, y0, x1, y1 = boxes[i].tolist()
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
        edge = PAPER if luminance(colours[i]) < 140 else INK
        thin = max(1, line // 3)
        write.rectangle((x0 - thin, y0 - thin, x1 + thin, y1 + thin), outline=edge, width=thin)
        write.rectangle((x0, y0, x1, y1), outline=colours[i], width=line)
    named = len(order) <= MOST_NAMED * picture.width * picture.height / LARGE_SIDE**2
    for i in order if named else ():
        over, (x0, y0) = colours[i], boxes[i, :2].tolist()
        words = [] if labels is None or not class_names else [class_names[int(labels[i])]]
        words += [] if scores is None else [f"{float(scores[i]):.2f}"]
        if words:
            text = shortened(" ".join(words), picture.width, letters)
            wide = letters.getlength(text) + 4
            left = max(0, min(x0, picture.width - wide))
            top = min(y0 - height if y0 >= height else y0, picture.height - height)
            write.rectangle((left, top, left + wide, top + height), fill=over)
            write.text((left + 2, top), text, PAPER if luminance(over) < 140 else INK, letters)


def drawing_order(sample: Sample) -> list[int]:
    """The numbers of the valid objects: all, the smallest box last; with scores MOST_OBJECTS, the best one last."""
    valid = sample.get("box_valid", torch.ones(len(sample["boxes"]), dtype=torch.bool))
    scores = sample.get("box_score")
    sizes = (sample["boxes"][:, 2:] - sample["boxes"][:, :2]).prod(1)
    order = [i for i in (-sizes if scores is None else scores).argsort(stable=True).tolist() if valid[i]]
    return order if scores is None else order[-MOST_OBJECTS:]


def not_drawn(number: int) -> list[str]:
    """What to say of a picture of so many detections."""
    return [f"the {MOST_OBJECTS} best are drawn, {number - MOST_OBJECTS} not"] if number > MOST_OBJECTS else []


def object_colours(sample: Sample) -> list[Colour]:
    """Of each object: those of the classes, but for objects that are not counted."""
    labels = sample.get("box_label", torch.zeros(len(sample["boxes"]), dtype=torch.int64)).tolist()
    return [UNCOUNTED if out else object_colour(i) for i, out in zip(labels, uncounted(sample).tolist(), strict=True)]


def uncounted(sample: Sample) -> Tensor:
    """(N,): the valid objects that measures leave out."""
    none = torch.zeros(len(sample.get("boxes", ())), dtype=torch.bool)
    left_out = sample.get("box_crowd", none).bool() | sample.get("box_difficult", none).bool()
    return left_out & sample.get("box_valid", ~none).bool()


def colour(number: int) -> Colour:
    """Of a class: always the same for the same number."""
    if number == 0:
        return INK  # class 0 of a mask is not drawn
    if number <= len(COLOURS):
        return COLOURS[number - 1]
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618 % 1, (0.55, 0.75, 0.95)[number % 3], (0.95, 0.7)[number % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def object_colour(label: int) -> Colour:
    """Of the class of an object: among objects there is no background, so that class 0 has a colour, too."""
    return colour(label + 1)


def luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def font(size: Sequence[int] = (LARGE_SIDE,)) -> ImageFont.FreeTypeFont:
    """For a picture of this size, or for the text of a page."""
    side = max(size)
    found = ImageFont.load_default(size=max(9, min(LETTERS, side // 10), side // 50))
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def line_width(size: Sequence[int]) -> int:
    """Pixels, for a picture of this size."""
    return max(1, min(2, max(size) // 50), max(size) // 300)


def shortened(text: str, width: int, letters: ImageFont.FreeTypeFont | None = None) -> str:
    """The text, cut to so many pixels, without control characters."""
    letters = letters or font()
    text = "".join(char if char.isprintable() else "?" for char in text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
