"""Every image of a data source, looked at once: files by workers, sets in memory batch by batch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from plainloop.contracts import Batch, Data, Split
from plainloop.data.boxes.annotations import Annotated
from plainloop.data.loaders import Loader
from plainloop.data.loading.samples import Images
from plainloop.data.loading.workers import read
from plainloop.data.survey.look import Looked, Objects, look_at_file, look_at_pixels, pixels_of
from plainloop.errors import BadData

SPLITS: tuple[Split, ...] = ("train", "val", "test")
THUMBS = 12  # small pictures of each class
CLASSES = 40  # that have small pictures
AT_ONCE = 16  # files for a worker
FLAGS = ("box_crowd", "box_difficult")


@dataclass(frozen=True)
class Files:
    """What workers look at: the images of one split."""

    images: Images
    split: Split
    with_thumb: frozenset[int]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Looked:
        name, label = os.fsdecode(self.images.paths[index]), int(self.images.labels[index])
        looked, path, thumb = Looked(self.split, name, label), self.images.folder / name, index in self.with_thumb
        if hasattr(self.images, "mask_of"):
            looked = look_at_file(path, replace(looked, label=-1), thumb=thumb)
            return looked if looked.problem else self._with_mask(looked, index)
        if hasattr(self.images, "objects"):
            objects = objects_of(self.images.objects, index)
            return self._of_their_size(
                look_at_file(path, replace(looked, label=-1, objects=objects), thumb=thumb), index
            )
        if getattr(self.images, "dataset", None) is None:
            return look_at_file(path, looked, thumb=thumb)
        try:
            image = self.images.decoded(index)  # torchvision's sets do not name their files
        except BadData as error:
            return replace(looked, problem=str(error))
        return look_at_pixels(image, looked, thumb=thumb)

    def _with_mask(self, looked: Looked, index: int) -> Looked:
        try:
            mask = self.images.mask_of(index, (looked.height, looked.width))  # type: ignore[attr-defined]
        except BadData as error:
            return replace(looked, problem=str(error))
        return replace(looked, pixels=pixels_of(mask))

    def _of_their_size(self, looked: Looked, index: int) -> Looked:
        """Annotations of another size have their boxes in wrong places."""
        height, width = self.images.objects.sizes[index].tolist()  # type: ignore[attr-defined]
        if looked.problem or not (height and width) or (looked.width, looked.height) == (width, height):
            return looked
        return replace(
            looked,
            problem=f"has {looked.width} x {looked.height} pixels, and its annotations are for {width} x {height}",
        )


def objects_of(annotated: Annotated, index: int) -> Objects:
    here = annotated.objects(index)
    flags = annotated.crowd[here], annotated.difficult[here]
    return Objects(annotated.boxes[here], annotated.label[here], annotated.area[here], *flags)


def survey(data: Data, *, tell: Callable[[str, int, int], None]) -> Iterator[Looked]:
    """Looks at every image of every split, in order. `tell`: the split, how many are done, of how many (0: unknown)."""
    if hasattr(data, "all_images"):
        for split, images in data.all_images().items():
            labels = images.labels.tolist()
            if hasattr(images, "objects"):  # pictures are of images that have some
                labels = np.where(np.diff(images.objects.first) > 0, 0, CLASSES).tolist()
            files = Files(images, split, first_of_each_class(labels))
            yield from _told(_by_workers(files, data.loaders[split]), split, len(files), tell)  # type: ignore[attr-defined]
    else:
        for split in SPLITS:
            yield from _told(_of_batches(data, split), split, 0, tell)


def _by_workers(files: Files, loader: Loader) -> Iterator[Looked]:
    few = len(files) <= 4 * AT_ONCE  # workers take longer to start
    keys = [list(range(start, min(start + AT_ONCE, len(files)))) for start in range(0, len(files), AT_ONCE)]
    for part in read(files, keys, list, loader=replace(loader, num_workers=0) if few else loader, num_ranks=1):
        yield from part


def _of_batches(data: Data, split: Split) -> Iterator[Looked]:
    try:
        batches = list(data.eval_batches(split))
    except BadData:  # it has no such split
        return
    labels = [label for batch in batches for label in batch.get("label", -batch["index"] * 0 - 1).tolist()]
    with_thumb, number = first_of_each_class(labels), 0
    for batch in batches:
        for row, image in enumerate(batch["image"].cpu()):
            pixels = pixels_of(batch["mask"][row]) if "mask" in batch else None
            objects = objects_in(batch, row) if "boxes" in batch else None
            looked = Looked(split, f"{split} {number}", labels[number], pixels=pixels, objects=objects)
            yield look_at_pixels(image, looked, thumb=number in with_thumb)
            number += 1


def objects_in(batch: Batch, row: int) -> Objects:
    """Of images that are as the model sees them."""
    valid = batch["box_valid"][row].cpu()
    boxes, label = (batch[name][row].cpu()[valid] for name in ("boxes", "box_label"))
    area = batch["box_area"][row].cpu()[valid] if "box_area" in batch else (boxes[:, 2:] - boxes[:, :2]).prod(1)
    flags = [
        batch[name][row].cpu()[valid] if name in batch else torch.zeros(len(label), dtype=torch.bool) for name in FLAGS
    ]
    return Objects(*(values.numpy() for values in (boxes, label, area, *flags)))


def _told(found: Iterator[Looked], split: str, total: int, tell: Callable[[str, int, int], None]) -> Iterator[Looked]:
    for number, looked in enumerate(found, 1):
        yield looked
        tell(split, number, total)


def first_of_each_class(labels: list[int]) -> frozenset[int]:
    """The positions of some images of each of the first classes."""
    taken: Counter[int] = Counter()
    chosen = []
    for position, label in enumerate(labels):
        if label < CLASSES and taken[label] < THUMBS:
            taken[label] += 1
            chosen.append(position)
    return frozenset(chosen)
