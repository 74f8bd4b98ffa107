"""One split of images with boxes, as workers read it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainloop.contracts import Sample, SampleTransform
from plainloop.data.boxes.annotations import Annotated
from plainloop.data.boxes.instance_masks import instance_masks, instance_runs, nearest
from plainloop.data.boxes.letterbox import letterbox, scaled
from plainloop.data.boxes.sides import Size, frame_of
from plainloop.data.loading.jpeg import SIDEWAYS, orientation_of
from plainloop.data.loading.sampler import Key
from plainloop.data.loading.samples import Images, transformed
from plainloop.errors import BadData, RunError
from plainloop.system import rng

OF_OBJECTS = ("boxes", "box_label", "box_valid", "box_crowd", "box_difficult", "box_area", "instance_mask")


@dataclass(frozen=True, kw_only=True)
class BoxedImages(Images):
    """All images end in a frame of one size, resized by one factor: wide ones in `sides`, tall ones in `sides` turned.

    In a training batch all have the frame that most of them need: its key says which.
    Transforms of training see the image and its objects at full size. Evaluation has image_scale, image_size, box_area
    and instance_runs, too, which have no meaning after transforms. Boxes are for pixels as stored, as in pycocotools
    and torchvision: EXIF turns nothing.
    """

    objects: Annotated
    sides: Size  # the shorter one first
    training: bool = False

    turned: ClassVar = False

    @classmethod
    def of(cls, folder: Path, objects: Annotated, sides: Size) -> BoxedImages:
        labels = np.zeros(len(objects), np.int64)  # an image with boxes has no class of its own
        return cls(folder, objects.images, labels, sides[0], 1.0, objects=objects, sides=sides)

    @property
    def tall(self) -> NDArray[np.bool_] | None:
        return None if self.sides[0] == self.sides[1] else self.objects.sizes[:, 0] > self.objects.sizes[:, 1]

    def rows(self, positions: NDArray[np.int64]) -> BoxedImages:
        objects = self.objects.rows(positions)
        return replace(self, paths=objects.images, objects=objects, labels=self.labels[positions])

    def augmented(self, sample_transforms: Sequence[SampleTransform], seed: int) -> BoxedImages:
        return replace(self, sample_transforms=tuple(sample_transforms), seed=seed, training=True)

    def decoded(self, index: int) -> Tensor:
        image = super().decoded(index)
        (height, width), (rows, columns) = self.objects.sizes[index].tolist(), image.shape[-2:]
        if height and width and not self._fits(rows, columns, height, width):
            path = self.folder / os.fsdecode(self.paths[index])
            turned, hint = "", "its boxes would be in wrong places: "
            if self._fits(columns, rows, height, width) and orientation_of(path) >= SIDEWAYS:
                turned = ", which its EXIF turns on the side"
                hint += f"turn the file itself, as the person who annotated it saw it: mogrify -auto-orient '{path}'"
            else:
                hint += "take the image or the annotations of the other's size"
            text = f"{path} has {columns} x {rows} pixels{turned}, and its annotations are for {width} x {height}"
            raise BadData(text, hint=hint)
        return image

    def _fits(self, rows: int, columns: int, height: int, width: int) -> bool:
        if self.cached is None:
            return (rows, columns) == (height, width)
        # what a cache keeps may be smaller, by the same factor in both directions
        return rows <= height and abs(rows * width - columns * height) <= max(height, width)

    def sample(self, key: Key, index: int, image: Tensor) -> Sample | RunError:
        height, width = image.shape[-2:]
        known = self.objects.sizes[index].tolist()
        size = (known[0], known[1]) if all(known) else (height, width)  # of the file; what a cache keeps may be smaller
        frame = frame_of(self.sides, tall=bool(key[2]) if len(key) > 2 else size[0] > size[1])
        if not self.sample_transforms:
            placed, factor = letterbox(image, frame, of=size)
            boxed = self._placed(index, (factor, factor), frame)
            sample = {"image": placed, "index": torch.tensor(index)} | boxed
            if self.training:
                return sample
            area = torch.tensor(self.objects.area[self.objects.objects(index)])
            file = {"image_scale": torch.tensor(factor), "image_size": torch.tensor(size)}
            if self.objects.outlines is not None:
                file["instance_runs"] = instance_runs(self.objects, index, size=size)
            return sample | file | {"box_area": area}
        sample = {"image": image, "index": torch.tensor(index)}
        sample |= self._placed(index, (width / size[1], height / size[0]), (height, width))
        try:
            with rng.drawing_from(rng.fold(rng.SAMPLE, self.seed, *key[:2])):
                sample = transformed(sample, self.sample_transforms)
        except BadData as error:
            return error
        return fitted(without_invalid(sample), frame)

    @cached_property
    def _marked(self) -> dict[str, NDArray[np.bool_]]:
        """The flags that any object of the split has."""
        flags = {"box_crowd": self.objects.crowd, "box_difficult": self.objects.difficult}
        return {name: values for name, values in flags.items() if values.any()}

    def _placed(self, index: int, scale: tuple[float, float], size: tuple[int, int]) -> Sample:
        """The objects of an image, from pixels of the file to an image of this scale (x, y) and size."""
        objects, here = self.objects, self.objects.objects(index)
        sample = {
            "boxes": torch.tensor(objects.boxes[here]) * torch.tensor([*scale, *scale]),
            "box_label": torch.tensor(objects.label[here]),
            "box_valid": torch.ones(here.stop - here.start, dtype=torch.bool),
        }
        sample |= {name: torch.tensor(marked[here]) for name, marked in self._marked.items()}
        if objects.outlines is not None:
            sample["instance_mask"] = instance_masks(objects, index, scale=scale, size=size)
        return sample


def without_invalid(sample: Sample) -> Sample:
    """Leaves out the objects that a transform has moved out of the image."""
    valid = sample["box_valid"]
    if valid.all():
        return sample
    return sample | {name: sample[name][valid] for name in OF_OBJECTS if name in sample}


def fitted(sample: Sample, frame: Size) -> Sample:
    """The image in a frame, if the transforms have not given it that size, and its objects with it."""
    height, width = sample["image"].shape[-2:]
    if (height, width) == frame:
        return sample
    image, factor = letterbox(sample["image"], frame)
    sample = sample | {"image": image, "boxes": sample["boxes"] * factor}
    if "instance_mask" in sample:
        masks = sample["instance_mask"]
        rows, columns = (torch.from_numpy(nearest(side, scaled(side, factor))) for side in (height, width))
        whole = masks.new_zeros(len(masks), *frame)
        whole[:, : len(rows), : len(columns)] = masks[:, rows[:, None], columns]
        sample["instance_mask"] = whole
    return sample
