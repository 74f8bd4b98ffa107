"""What a model says of images, as files: masks with a palette, overlays with masks or objects, a page of pictures."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from plainloop.contracts import Sample
from plainloop.data.loading.decode import decode
from plainloop.report.pictures import (
    INK,
    PAPER,
    colour,
    draw_boxes,
    drawing_order,
    font,
    not_drawn,
    object_colours,
    shortened,
    tinted,
    with_objects,
)
from plainloop.report.sheet import caption, page
from plainloop.system import storage
from plainloop.tasks.boxes.found import Found, told

MOST_DRAWN = 64  # images of the page
WAITING = 32  # images whose files are still to be written
QUALITY = 90  # of overlays, as JPEGs


class Drawings:
    """Writes masks and overlays in threads of its own, and keeps the first images for a page.

    Which files there are depends on what was found: a mask has both, objects an overlay, and a label is drawn on the
    page only.
    """

    def __init__(self, out: Path, class_names: Sequence[str], names: Sequence[Path]) -> None:
        self.out, self.class_names, self.names = out, class_names, names
        self.samples: list[Sample] = []
        self.texts: list[list[str]] = []
        self._writing: deque[Future[None]] = deque()
        self._threads = ThreadPoolExecutor(4)

    @contextlib.contextmanager
    def open(self) -> Iterator[Drawings]:
        """Leaves when all files are written. Raises CannotWrite."""
        with self._threads:
            yield self
            while self._writing:
                self._writing.popleft().result()

    def add(
        self, number: int, file: Path, image: Tensor, result: Sample, objects: Found | None = None
    ) -> dict[str, str]:
        """The paths of the files that are written, from the folder.

        `image` (C, H, W) uint8 is as the model got it; `result` may have a label, and a mask of the file's size.
        """
        if len(self.samples) < MOST_DRAWN:
            self._keep(file, image, result, objects)
        if "mask" not in result and objects is None:
            return {}
        files = {"overlay": Path("overlays", f"{self.names[number]}.jpg")}
        if "mask" in result:
            files = {"mask": Path("masks", f"{self.names[number]}.png")} | files
        for path in files.values():
            storage.make_folder((self.out / path).parent)
        size = result["mask"].shape if objects is None else objects.size
        pixels = image if image.shape[-2:] == size else None
        if len(self._writing) >= WAITING:
            self._writing.popleft().result()
        self._writing.append(self._threads.submit(self._write, files, file, pixels, result.get("mask"), objects))
        return {name: str(path) for name, path in files.items()}

    def _keep(self, file: Path, image: Tensor, result: Sample, objects: Found | None) -> None:
        """For the page: the image without what is grey beside it."""
        sample, words = {name: value for name, value in result.items() if name != "mask" or _fits(value, image)}, []
        if objects is not None:
            rows, columns = (max(1, round(n * f)) for n, f in zip(objects.size, objects.factors[::-1], strict=True))
            image, words = image[:, :rows, :columns], [told(objects.names(self.class_names), objects.scores.tolist())]
            words += not_drawn(len(objects))
            sample |= as_sample(objects, objects.factors)
            sample |= {} if objects.prepared is None else {"instance_mask": objects.prepared}
        sample["image"] = image.float() / 255
        text = [file.name, *(words or caption(sample, self.class_names))]
        self.samples.append(sample)  # only now: an interrupted command draws its page too
        self.texts.append(text)

    def _write(
        self, files: dict[str, Path], file: Path, pixels: Tensor | None, mask: Tensor | None, objects: Found | None
    ) -> None:
        try:
            seen = decode(file) if pixels is None else pixels
            drawn = seen.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            if mask is not None:
                classes = mask.numpy().astype(np.uint8)
                with_palette(classes).save(self.out / files["mask"])
                drawn = tinted(drawn, classes)
            picture = Image.fromarray(drawn) if objects is None else with_found(drawn, objects, self.class_names)
            picture.save(self.out / files["overlay"], quality=QUALITY)
        except OSError as error:
            raise storage.cannot_write(self.out / files["overlay"], 0, error) from error

    def page(self, title: str) -> Image.Image | None:
        return page([self.samples], [self.texts], self.class_names, title=title) if self.samples else None


def _fits(mask: Tensor, image: Tensor) -> bool:
    return mask.shape == image.shape[-2:]


def with_found(pixels: NDArray[np.uint8], objects: Found, class_names: Sequence[str]) -> Image.Image:
    """Pixels (H, W, 3) of the image with its best objects, masks below boxes, the best on top."""
    sample = as_sample(objects)
    if objects.prepared is not None:
        order, colours = drawing_order(sample), object_colours(sample)
        pixels = with_objects(pixels, map(objects.mask, order), [colours[i] for i in order])
    picture = Image.fromarray(pixels)
    draw_boxes(picture, sample, class_names)
    for words in not_drawn(len(objects)):
        letters = font(picture.size)
        text = shortened(words, picture.width, letters)
        place = ImageDraw.Draw(picture).textbbox((4, picture.height - 4), text, letters, "lb")
        ImageDraw.Draw(picture).rectangle(place, fill=PAPER)
        ImageDraw.Draw(picture).text((4, picture.height - 4), text, INK, letters, "lb")
    return picture


def as_sample(objects: Found, factors: tuple[float, float] = (1, 1)) -> Sample:
    """In pixels of an image that is larger by these factors."""
    boxes = torch.from_numpy(objects.boxes) * torch.tensor([*factors, *factors])
    label, score = torch.from_numpy(objects.labels), torch.from_numpy(objects.scores)
    return {"boxes": boxes, "box_label": label, "box_score": score}


def with_palette(classes: NDArray[np.uint8]) -> Image.Image:
    """A picture whose values are the classes' numbers, and whose palette has their colours; class 0 is black."""
    picture = Image.fromarray(classes)  # grey, until it has a palette
    picture.putpalette([part for number in range(256) for part in (colour(number) if number else (0, 0, 0))])
    return picture
