"""What a model says of images, as files: masks with a palette, overlays, and a page of pictures."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plainloop.contracts import Sample
from plainloop.data.loading.decode import decode
from plainloop.report.pictures import caption, colour, page, tinted
from plainloop.system import storage

MOST_DRAWN = 64  # images of the page
WAITING = 32  # images whose files are still to be written
QUALITY = 90  # of overlays, as JPEGs


class Drawings:
    """Writes masks and overlays in threads of its own, and keeps the first images for a page.

    Which files there are depends on the entries of a result: `mask` has them, `label` is drawn on the page only.
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

    def add(self, number: int, file: Path, image: Tensor, result: Sample) -> dict[str, str]:
        """The paths of the files that are written, from the folder. `image` (C, H, W) uint8 is as the model got it."""
        if len(self.samples) < MOST_DRAWN:
            fitting = {name: value for name, value in result.items() if name != "mask" or _fits(value, image)}
            sample = {"image": image.float() / 255, **fitting}
            self.samples.append(sample)
            self.texts.append([file.name, *caption(sample, self.class_names)])
        if "mask" not in result:
            return {}
        mask, overlay = (
            Path(kind, f"{self.names[number]}{end}") for kind, end in (("masks", ".png"), ("overlays", ".jpg"))
        )
        for path in (mask, overlay):
            storage.make_folder((self.out / path).parent)
        classes = result["mask"].numpy().astype(np.uint8)
        pixels = image if _fits(result["mask"], image) else None
        if len(self._writing) >= WAITING:
            self._writing.popleft().result()
        self._writing.append(self._threads.submit(self._write, mask, overlay, classes, file, pixels))
        return {"mask": str(mask), "overlay": str(overlay)}

    def _write(self, mask: Path, overlay: Path, classes: NDArray[np.uint8], file: Path, pixels: Tensor | None) -> None:
        try:
            with_palette(classes).save(self.out / mask)
            seen = decode(file) if pixels is None else pixels
            drawn = tinted(seen.expand(3, -1, -1).permute(1, 2, 0).numpy(), classes)
            Image.fromarray(drawn).save(self.out / overlay, quality=QUALITY)
        except OSError as error:
            raise storage.cannot_write(self.out / mask, 0, error) from error

    def page(self, title: str) -> Image.Image | None:
        return page([self.samples], [self.texts], self.class_names, title=title) if self.samples else None


def _fits(mask: Tensor, image: Tensor) -> bool:
    return mask.shape == image.shape[-2:]


def with_palette(classes: NDArray[np.uint8]) -> Image.Image:
    """A picture whose values are the classes' numbers, and whose palette has their colours; class 0 is black."""
    picture = Image.fromarray(classes)  # grey, until it has a palette
    picture.putpalette([part for number in range(256) for part in (colour(number) if number else (0, 0, 0))])
    return picture
