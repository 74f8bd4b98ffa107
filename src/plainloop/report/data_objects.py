"""What a survey of a data set says of objects with boxes: how many, how large, which flags, and pictures of some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from plainloop.data.boxes.sides import factor_of, frame_of, sides_of, typed
from plainloop.errors import counted
from plainloop.report.sheet import page

SMALL, LARGE = 32**2, 96**2  # pixels of area: COCO's bounds of small, medium and large objects
NUM_ANCHORS = 9  # boxes that a YOLOv3 starts from, three for each of its maps
MOST_BOXES, STARTS, ROUNDS = 4_000, 8, 30  # of k-means
SHOWN = 12  # pictures


def object_lines(looked: Sequence[Any], splits: Sequence[str], image_size: Any) -> Iterator[str]:
    """`looked` are images with objects, or with none in them; `image_size` is that of `Found`."""
    for number, split in enumerate(splits):
        counts = [len(one.objects.label) for one in looked if one.split == split]
        if counts:
            start, none = "" if number else "  objects", counts.count(0)
            more = f"; {counted(none, 'image')} with none" if none else ""
            yield f"{start:14}{sum(counts):,} {split}, at most {max(counts):,} in an image{more}"
    flags = [
        f"{sum(int(getattr(one.objects, name).sum()) for one in looked if one.split == split):,} {split} {name}"
        for split in splits
        for name in ("crowd", "difficult")
    ]
    if flags := [text for text in flags if not text.startswith("0 ")]:
        yield f"  flags       {', '.join(flags)}"
    train = [one for one in looked if one.split == splits[0] and len(one.objects.label)]
    if not train:
        return
    areas, sides = scaled(train, image_size)
    shares = [float(np.mean(kind)) for kind in (areas < SMALL, (areas >= SMALL) & (areas < LARGE), areas >= LARGE)]
    how = f"resized to {typed(image_size)}" if image_size else "as they are"
    yield f"  areas       of {splits[0]}, {how}: {shares[0]:.0%} small, {shares[1]:.0%} medium, {shares[2]:.0%} large"
    yield "              (below 32 x 32 pixels, below 96 x 96, and above, as COCO measures)"
    found = sides[sides.min(1) >= 2]
    if tiny := len(sides) - len(found):
        yield f"              {tiny:,} are less than 2 pixels wide or high: no model finds those"
    if len(found) >= NUM_ANCHORS:
        anchors, overlap = anchors_of(found)
        yield f"  anchors     of model=yolov3 that fit {splits[0]}, with a mean IoU of {overlap:.2f}:"
        yield f"  model.anchors=[{','.join(f'[{w:.0f},{h:.0f}]' for w, h in anchors)}]"


def resized_by(one: Any, image_size: Any) -> float:
    """The factor with which an image fits into what the model sees."""
    return factor_of(one.height, one.width, frame_of(sides_of(image_size), tall=one.height > one.width))


def scaled(looked: Sequence[Any], image_size: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas (M,), and widths and heights (M, 2), of all objects that are not crowds, in pixels that the model sees."""
    areas, sides = [], []
    for one in looked:
        factor = resized_by(one, image_size) if image_size else 1.0
        kept, boxes = ~one.objects.crowd, one.objects.boxes.astype(np.float64)
        areas.append(one.objects.area[kept] * factor**2)
        sides.append((boxes[kept, 2:] - boxes[kept, :2]) * factor)
    return np.concatenate(areas), np.concatenate(sides)


def anchors_of(sides: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Widths and heights (9, 2) in rising order of area, and the mean IoU of each box with the nearest of them.

    K-means whose distance is 1 - IoU of boxes with one centre, as section 2 of https://arxiv.org/abs/1612.08242; the
    best of several starts.
    """
    draw = np.random.default_rng(0)
    some = sides if len(sides) <= MOST_BOXES else draw.choice(sides, MOST_BOXES, replace=False)
    tries = [k_means(some, spread(some, draw)) for _ in range(STARTS)]
    best = max(tries, key=lambda anchors: float(overlaps(some, anchors).max(1).mean()))
    anchors = np.rint(best[np.argsort(best.prod(1), kind="stable")])
    return anchors, float(overlaps(some, anchors).max(1).mean())


def spread(sides: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Some of the boxes, each the likelier the less it overlaps those before (k-means++)."""
    chosen = sides[[draw.integers(len(sides))]]
    while len(chosen) < NUM_ANCHORS:
        distance = (1 - overlaps(sides, chosen).max(1)) ** 2 + 1e-9  # all may be equal
        chosen = np.vstack([chosen, sides[draw.choice(len(sides), p=distance / distance.sum())]])
    return chosen


def k_means(sides: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    for _ in range(ROUNDS):
        nearest = overlaps(sides, anchors).argmax(1)
        mine = [sides[nearest == number] for number in range(NUM_ANCHORS)]
        moved = np.stack([np.median(of, 0) if len(of) else old for of, old in zip(mine, anchors, strict=True)])
        if np.array_equal(moved, anchors):
            break
        anchors = moved
    return anchors


def overlaps(sides: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 9): IoU of boxes with one centre."""
    both = np.minimum(sides[:, None], anchors).prod(2)
    shares: NDArray[np.float64] = both / (sides.prod(1)[:, None] + anchors.prod(1) - both)
    return shares


def object_picture(looked: Sequence[Any], class_names: Sequence[str]) -> Image.Image | None:
    """Some images with their boxes; None where no small pictures were kept."""
    chosen = [one for one in looked if one.thumb is not None][:SHOWN]
    if not chosen:
        return None
    samples = []
    for one in chosen:
        factor = one.thumb.shape[1] / one.width
        sample = {"image": torch.from_numpy(one.thumb).permute(2, 0, 1) / 255}
        sample |= {"boxes": torch.tensor(one.objects.boxes * factor), "box_label": torch.tensor(one.objects.label)}
        samples.append(sample)
    return page([samples], [[[one.name] for one in chosen]], class_names, title="boxes as the annotations say them")
