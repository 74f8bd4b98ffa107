"""The splits of an image folder as workers read them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainloop.contracts import Sample, SampleTransform, Split
from plainloop.data.cache.build import Content
from plainloop.data.cache.file import CachedImages
from plainloop.data.loading.decode import VERSION, decode, decode_at_most, resize_and_crop
from plainloop.data.loading.listing import Listing, Listings
from plainloop.data.loading.stratify import stratified_split
from plainloop.data.loading.workers import Key, Skipped
from plainloop.errors import BadData, RunError
from plainloop.system import rng


@dataclass(frozen=True)
class Images:
    """One split. Paths and labels are arrays: forked workers share arrays, but copy lists page by page."""

    folder: Path
    paths: NDArray[np.bytes_]  # from folder
    labels: NDArray[np.int64]
    image_size: int
    crop_fraction: float
    sample_transforms: tuple[SampleTransform, ...] = ()
    seed: int = 0
    cached: CachedImages | None = None
    on_bad_image: Literal["raise", "replace", "leave_out"] = "raise"

    turned: ClassVar[bool] = True  # as their EXIF says

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tall(self) -> NDArray[np.bool_] | None:
        """(N,): which images are higher than wide, where training has batches of one shape each."""
        return None

    def rows(self, positions: NDArray[np.int64]) -> Images:
        return replace(self, paths=self.paths[positions], labels=self.labels[positions])

    def augmented(self, sample_transforms: Sequence[SampleTransform], seed: int) -> Images:
        return replace(self, sample_transforms=tuple(sample_transforms), seed=seed)

    @property
    def folder_name(self) -> str:
        """For the name of a cache."""
        return self.folder.absolute().name

    def content(self, name: str, *, shorter_side: int | None, keep_bad: bool) -> Content:
        """What a cache of this split holds."""
        read = partial(decode_at_most, shorter_side=shorter_side, turned=self.turned)
        about = {"decoded by": VERSION, "shorter side": shorter_side}
        about |= {} if self.turned else {"pixels": "as stored"}
        files = [os.fsdecode(path) for path in self.paths]
        return Content(name, self.folder, files, read, about, shorter_side, keep_bad)

    def without_bad_images(self, way: Literal["replace", "leave_out"]) -> Images:
        return replace(self, on_bad_image=way)

    def decoded(self, index: int) -> Tensor:
        """(3, H, W) uint8, from the cache if there is one. Raises BadData."""
        if self.cached is not None:
            return self.cached[index]
        return decode(self.folder / os.fsdecode(self.paths[index]), turned=self.turned)

    def __getitem__(self, key: Key) -> Sample | Skipped | RunError:
        """One sample; all that its transforms draw depends on (seed, epoch, index) alone."""
        index = key[1]
        try:
            image = self.decoded(index)
        except BadData as error:
            return self.without(key, error)
        return self.sample(key, index, image)

    def without(self, key: Key, error: BadData) -> Skipped | RunError:
        """What is done about a sample that cannot be read: another of its class, drawn from (seed, epoch, index)."""
        epoch, index = key[:2]
        if self.on_bad_image == "leave_out":
            return Skipped(index, str(error), None)
        if self.on_bad_image == "raise":
            return BadData(f"{error}; it is sample {index}", hint=error.hint)
        others = np.flatnonzero(self.labels == self.labels[index])
        for other in np.random.default_rng(rng.fold(rng.REPLACE, self.seed, epoch, index)).permutation(others).tolist():
            try:
                image = self.decoded(other)
            except BadData:
                continue
            sample = self.sample(key, other, image)
            return sample if isinstance(sample, RunError) else Skipped(index, str(error), sample)
        return BadData(f"{error}, nor any other image of its class", hint="mend this file")

    def sample(self, key: Key, index: int, image: Tensor) -> Sample | RunError:
        """The image after its transforms, whose draws depend on `key`, with its label and index."""
        sample = {"image": image, "label": torch.tensor(int(self.labels[index])), "index": torch.tensor(index)}
        if self.sample_transforms:
            try:
                with rng.drawing_from(rng.fold(rng.SAMPLE, self.seed, *key)):
                    sample = transformed(sample, self.sample_transforms)
            except BadData as error:
                return error
        image = sample["image"]
        if not self.sample_transforms or image.shape[-2:] != (self.image_size, self.image_size):
            image = resize_and_crop(image, image_size=self.image_size, crop_fraction=self.crop_fraction)
        return sample | {"image": image}


def transformed(sample: Sample, sample_transforms: Sequence[SampleTransform]) -> Sample:
    """The sample after all transforms, each of which must give a (3, H, W) uint8 image. Raises BadData."""
    for transform in sample_transforms:
        sample = transform(sample)
        image = sample["image"]
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
            got = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise BadData(
                f"a transform in the workers must give a (3, H, W) uint8 tensor; "
                f"{getattr(transform, '__self__', transform)} gave {got}",
                hint="leave conversion and normalization out of augment: every run does them, on the device",
            )
    return sample


def split_images(listings: Listings, *, image_size: int, crop_fraction: float) -> dict[Split, Images]:
    """The listed splits, with validation taken out of train where it has no folder."""

    def of(listing: Listing) -> Images:
        paths = np.array([os.fsencode(path) for path in listing.paths])
        return Images(listing.folder, paths, np.fromiter(listing.labels, np.int64), image_size, crop_fraction)

    images: dict[Split, Images] = {"train": of(listings.train)}
    whole = images["train"]
    if listings.val is not None:
        images["val"] = of(listings.val)
    elif listings.fold is not None:
        is_val = listings.fold.mask(whole.labels, listings.train.group_of_each)
        images["train"], images["val"] = (whole.rows(np.flatnonzero(chosen)) for chosen in (~is_val, is_val))
    else:
        kept, held_out = stratified_split(whole.labels, fraction=listings.val_fraction)
        images["train"], images["val"] = whole.rows(kept), whole.rows(held_out)
    if listings.test is not None:
        images["test"] = of(listings.test)
    return images
