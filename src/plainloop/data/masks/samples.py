"""One split of images with masks, as workers read it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from plainloop.contracts import IGNORE, Sample, SampleTransform
from plainloop.data.cache.build import Content
from plainloop.data.loading.decode import at_most, decode
from plainloop.data.loading.jpeg import SIDEWAYS, orientation_of
from plainloop.data.loading.sampler import Key
from plainloop.data.loading.samples import Images, transformed
from plainloop.data.masks.pairs import Pair
from plainloop.data.masks.read import Reading, read_mask
from plainloop.errors import BadData, RunError
from plainloop.system import rng

GREY = 127  # around images that are smaller than the training size


@dataclass(frozen=True, kw_only=True)
class MaskedImages(Images):
    """Training cuts images to `image_size`, if no transform does; evaluation takes them as they are.

    A mask that cannot be read ends the run, whatever data.on_bad_image says: its labels may be wrong elsewhere, too.
    """

    masks: NDArray[np.bytes_]  # (N,), from folder
    reading: Reading
    training: bool = False

    @classmethod
    def of(cls, folder: Path, pairs: Sequence[Pair], reading: Reading, image_size: int) -> MaskedImages:
        images, masks = (np.array([os.fsencode(pair[i]) for pair in pairs]) for i in range(2))
        labels = np.zeros(len(pairs), np.int64)  # an image with a mask has no class of its own
        return cls(folder, images, labels, image_size, 1.0, masks=masks, reading=reading)

    def rows(self, positions: NDArray[np.int64]) -> MaskedImages:
        paths, masks = self.paths[positions], self.masks[positions]
        return replace(self, paths=paths, masks=masks, labels=self.labels[positions])

    def augmented(self, sample_transforms: Sequence[SampleTransform], seed: int) -> MaskedImages:
        return replace(self, sample_transforms=tuple(sample_transforms), seed=seed, training=True)

    def content(self, name: str, *, shorter_side: int | None, keep_bad: bool) -> Content:
        """Each image with its mask as a fourth channel, so that no image can come with the mask of another."""
        of_images = super().content(name, shorter_side=shorter_side, keep_bad=keep_bad)
        return replace(
            of_images,
            read=partial(read_pair, reading=self.reading, shorter_side=shorter_side),
            about=of_images.about | {"masks": self.reading.digest, "masks turned": "with their image"},
            masks=[os.fsdecode(path) for path in self.masks],
            channels=4,
        )

    def sample(self, key: Key, index: int, image: Tensor) -> Sample | RunError:
        try:
            if self.cached is None:
                mask = self.mask_of(index, tuple(image.shape[-2:]))
            else:
                image, mask = channels_last(image[:3]), image[3].long()
            sample = {"image": image, "mask": mask, "index": torch.tensor(index)}
            if self.sample_transforms:
                with rng.drawing_from(rng.fold(rng.SAMPLE, self.seed, *key)):
                    sample = transformed(sample, self.sample_transforms)
        except BadData as error:
            return error
        return fitted(sample, self.image_size) if self.training else sample

    def mask_of(self, index: int, size: tuple[int, ...]) -> Tensor:
        """(H, W) int64, of this size. Raises BadData."""
        image_path, mask_path = (self.folder / os.fsdecode(names[index]) for names in (self.paths, self.masks))
        return mask_of(image_path, mask_path, size, self.reading)


def channels_last(image: Tensor) -> Tensor:
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def mask_of(image_path: Path, mask_path: Path, size: tuple[int, ...], reading: Reading) -> Tensor:
    """(H, W) int64, of the image's size, turned with it where the sizes show that it is for pixels as stored.

    Raises BadData.
    """
    mask = read_mask(mask_path, reading)
    orientation = orientation_of(image_path)
    if orientation > 1 and orientation_of(mask_path) == 1:
        if orientation >= SIDEWAYS and mask.shape == size[::-1] != size:
            mask = turned(mask, orientation)
        elif mask.shape == size and (orientation < SIDEWAYS or size[0] == size[1]):
            raise BadData(
                f"{image_path} is turned by its EXIF, and its mask {mask_path} may be for the photograph as viewers "
                "show it, or as it is stored: both have the same size",
                hint=f"if it is right in viewers, turn the file itself: mogrify -auto-orient '{image_path}'; else take "
                f"its EXIF away: mogrify -strip '{image_path}'",
            )
    if mask.shape != size:
        sizes = [f"{width} x {height}" for height, width in (mask.shape, size)]
        raise BadData(
            f"{mask_path} has {sizes[0]} pixels, and its image {image_path} has {sizes[1]}",
            hint="a mask has one pixel for each of its image: make it anew, or remove both",
        )
    return mask


def turned(mask: Tensor, orientation: int) -> Tensor:
    """As Pillow turns an image with this EXIF, which swaps its sides."""
    if orientation in (6, 8):
        return torch.rot90(mask, -1 if orientation == 6 else 1)
    return (mask if orientation == 5 else mask.flip(0, 1)).T.contiguous()


def read_pair(image_path: Path, mask_path: Path, *, reading: Reading, shorter_side: int | None) -> Tensor | RunError:
    """(4, H, W) uint8: the image, and the class of each pixel. Raises BadData for the image; a bad mask is returned."""
    image = decode(image_path)
    try:
        mask = mask_of(image_path, mask_path, tuple(image.shape[-2:]), reading)
    except BadData as error:
        return error
    image = at_most(image, shorter_side=shorter_side)
    mask = F.resize(mask[None].to(torch.uint8), list(image.shape[-2:]), InterpolationMode.NEAREST_EXACT)
    return torch.cat([image, mask])


def fitted(sample: Sample, size: int) -> Sample:
    """The middle of the image in a square of this size, with grey and IGNORE around it where it is smaller."""
    height, width = sample["image"].shape[-2:]
    if (height, width) == (size, size):
        return sample
    inside, outside = [], []
    for length in (height, width):
        kept = min(length, size)
        inside.append(slice((length - kept) // 2, (length - kept) // 2 + kept))
        outside.append(slice((size - kept) // 2, (size - kept) // 2 + kept))
    image = sample["image"].new_full((3, size, size), GREY)
    mask = sample["mask"].new_full((size, size), IGNORE)
    image[:, outside[0], outside[1]] = sample["image"][:, inside[0], inside[1]]
    mask[outside[0], outside[1]] = sample["mask"][inside[0], inside[1]]
    return sample | {"image": image, "mask": mask}
