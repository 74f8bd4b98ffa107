"""Folders of pictures with coloured rectangles: their boxes can be read off the pixels, wherever these were moved."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.boxes.annotations import Annotated, Outlines
from plainloop.data.boxes.samples import BoxedImages
from plainloop.data.boxes.sides import sides_of
from plainloop.data.decoded import IMAGENET_MEAN, IMAGENET_STD, DecodedFiles
from plainloop.data.loading.samples import Images

COLOURS = [colour for colour in product((0, 255), repeat=3) if any(colour)]  # a rectangle of class i has colour i
CELLS = (2, 4)  # rows and columns, at most one rectangle in each
SIZES = ((120, 80), (60, 150), (96, 96), (70, 200), (33, 47))  # height and width


def write_rectangles(folder: Path, counts: Sequence[int], *, seed: int = 0) -> Annotated:
    """A picture for each count, with so many rectangles on black; each has its own colour in the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, boxes, labels, sizes = np.random.default_rng(seed), [], [], []
    for number, count in enumerate(counts):
        height, width = SIZES[number % len(SIZES)]
        pixels = np.zeros((height, width, 3), np.uint8)
        cells = draw.permutation([*product(range(CELLS[0]), range(CELLS[1]))])[:count]
        for label, cell in zip(draw.permutation(len(COLOURS))[:count], cells, strict=True):
            spans = []
            for place, side, of in zip(cell, (height, width), CELLS, strict=True):
                room = side // of
                length = int(draw.integers(room // 2, room - 2))
                start = place * room + int(draw.integers(room - length))
                spans.append((start, start + length))
            (top, bottom), (left, right) = spans
            pixels[top:bottom, left:right] = COLOURS[label]
            boxes.append((left, top, right, bottom))
            labels.append(label)
        sizes.append((height, width))
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return annotated(counts, boxes, labels, sizes)


def annotated(
    counts: Sequence[int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    crowd: Sequence[bool] | None = None,
) -> Annotated:
    """The images 0.png, 1.png, ... with so many of the objects each; areas are half of the boxes', as objects' are."""
    flat = np.array(boxes, np.float32).reshape(-1, 4)
    return Annotated(
        images=np.array([f"{number}.png".encode() for number in range(len(counts))]),
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=flat,
        label=np.array(labels, np.int64),
        crowd=np.zeros(len(flat), np.bool_) if crowd is None else np.array(crowd, np.bool_),
        difficult=np.zeros(len(flat), np.bool_),
        area=(flat[:, 2:] - flat[:, :2]).prod(1) / 2,
    )


def with_outlines(objects: Annotated) -> Annotated:
    """Each object has the four corners of its box as a polygon."""
    corners = objects.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    count = len(objects.boxes)
    none = np.zeros(count + 1, np.int64)
    numbers = np.arange(count + 1)
    outlines = Outlines(corners, 4 * numbers, numbers, np.zeros(0, np.uint8), none, np.zeros((count, 2), np.int32))
    return Annotated(**vars(objects) | {"outlines": outlines})


@dataclass(kw_only=True, eq=False)
class Rectangles(DecodedFiles):
    """The folders train and val of `root`, with the objects in the file of the same name."""

    root: Path

    @property
    def shorter_side(self) -> int:
        return sides_of(self.image_size)[0]

    def known(self) -> Facts:
        images, shape = self.all_images(), (3, *sides_of(self.image_size))
        names = tuple(map(str, range(len(COLOURS))))
        return Facts(len(images["train"]), len(images["val"]), names, shape, IMAGENET_MEAN, IMAGENET_STD)

    def all_images(self) -> dict[Split, Images]:
        splits: tuple[Split, ...] = ("train", "val")
        return {
            split: BoxedImages.of(
                self.root / split,
                pickle.loads((self.root / f"{split}.objects").read_bytes()),
                sides_of(self.image_size),
            )
            for split in splits
        }


def write_set(root: Path, train: Sequence[int], val: Sequence[int], *, outlines: bool = False) -> Path:
    for split, counts in (("train", train), ("val", val)):
        objects = write_rectangles(root / split, counts, seed=len(split))
        (root / f"{split}.objects").write_bytes(pickle.dumps(with_outlines(objects) if outlines else objects))
    return root


def source(root: Path, **settings: object) -> Rectangles:
    given = {"batch_size": 6, "image_size": 48, "num_workers": 0, "device": "cpu", "timeout": 60} | settings
    return Rectangles(root=root, **given)


def seen_box(image: Tensor, label: int) -> Tensor | None:
    """(4,) around the pixels of an image (3, H, W) uint8 that are nearer to a class's colour than to black and grey."""
    colour = torch.tensor(COLOURS[label])[:, None, None]
    rows, columns = ((image.int() - colour).abs().amax(0) < 120).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def largest_error(batch: Batch) -> float:
    """Pixels from the edges of what is seen to the edges of its box, at most; infinite if one is there alone."""
    worst = 0.0
    for image, boxes, labels, valid in zip(*(batch[n] for n in ("image", "boxes", "box_label", "box_valid"))):
        real = {int(label): box for box, label, here in zip(boxes, labels, valid) if here}
        for label in range(len(COLOURS)):
            seen, box = seen_box(image, label), real.get(label)
            thin = box is None or float((box[2:] - box[:2]).min()) < 1
            if seen is not None and box is not None:
                worst = max(worst, float((seen - box).abs().max()))
            elif not thin or (seen is not None and float((seen[2:] - seen[:2]).min()) > 1):
                worst = float("inf")
    return worst


def objects_of(batch: Batch) -> dict[int, dict[str, Tensor]]:
    """What each sample of a batch has, without the padding, by its index."""
    rows = {}
    for row, index in enumerate(batch["index"].tolist()):
        valid = batch["box_valid"][row]
        rows[index] = {
            name: values[row] if name.startswith("image") else values[row][valid]
            for name, values in batch.items()
            if name not in ("index", "instance_runs")
        }
    return rows
