"""What sources share whose images are decoded by worker processes.

This module has no `from __future__ import annotations`: the check reads these types in the signatures of subclasses.
"""

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from plainloop.contracts import Batch, Preprocessing, SampleTransform, Split
from plainloop.data.cache.place import Place, place_of, require_folder, require_room
from plainloop.data.images import LabelledImages
from plainloop.errors import BadData
from plainloop.system.storage import readable_size

if TYPE_CHECKING:
    from torch import Tensor

    from plainloop.data.cache.file import CachedImages
    from plainloop.data.loading.samples import Images

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(kw_only=True, eq=False)
class DecodedFiles(LabelledImages):
    """A subclass adds its own arguments, `known` and `all_images`.

    Args:
        num_workers: `auto` is four, or fewer where fewer CPUs are granted.
        timeout: seconds; a batch that takes longer ends the run.
        image_size: pixels, of the square that the model sees.
        on_bad_image: `raise` ends the run; `skip` trains on another image of its class instead, and leaves it out of
            evaluations.
        max_bad_fraction: of the images of a split; the run ends when more of them cannot be read, rounded up.
        sample_transforms: sample -> sample, the image (3, H, W) uint8 of any size; for training only, in order.
        cache: decodes each image once: `disk` keeps it for all later runs, `ram` for the ranks of this one.
        cache_size: the shorter side of what is kept, in pixels; `auto` is what evaluation resizes to, or as they are.
        cache_dir: None is $XDG_CACHE_HOME/plainloop/images, or ~/.cache/plainloop/images.
        cache_gb: what all caches in that folder may take, or this one in memory; in 10^9 bytes.
    """

    num_workers: int | Literal["auto"] = "auto"
    timeout: float = 300
    image_size: int = 224
    on_bad_image: Literal["raise", "skip"] = "raise"
    max_bad_fraction: float = 0.01
    sample_transforms: Sequence[SampleTransform] = ()
    cache: Literal["none", "ram", "disk"] = "none"
    cache_size: int | Literal["auto"] = "auto"
    cache_dir: str | None = None
    cache_gb: float = 20

    # A run that has met a bad image has ended; so what to do about one can be said afterwards.
    changes_no_result: ClassVar = (
        *(*LabelledImages.changes_no_result, "timeout", "*prefetch"),
        *("on_bad_image", "max_bad_fraction", "cache_dir", "cache_gb"),
    )
    evaluates_resized: ClassVar[bool] = True  # evaluation makes images smaller anyway: it can take them from any cache
    how_to_get_a_test_split: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shorter_side < 1:
            raise ValueError(f"data.image_size={self.image_size} must be at least 1 pixel")
        if self.timeout <= 0:
            raise ValueError(f"data.timeout={self.timeout} must be above 0 seconds")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction={self.max_bad_fraction} must lie between 0 and 1, such as 0.01")
        if self.cache_size != "auto" and self.cache_size < self.shorter_side:
            raise ValueError(
                f"data.cache_size={self.cache_size} must be at least data.image_size={self.shorter_side}, or auto"
            )
        if self.cache_gb <= 0:
            raise ValueError(f"data.cache_gb={self.cache_gb} must be above 0")
        self.cached_side = None if self.cache_size == "auto" else self.cache_size  # None: images as they are
        self._caches: dict[Split, CachedImages] = {}
        self._skipped: list[dict[str, Any]] = []
        self._bad: dict[Split, set[int]] = {}

    @property
    def shorter_side(self) -> int:
        """Of the images that the model sees, in pixels."""
        return self.image_size

    @abstractmethod
    def all_images(self) -> "dict[Split, Images]":
        """The splits whole, before `max_train_samples`."""

    @cached_property
    def images(self) -> "dict[Split, Images]":
        from plainloop.data.loading.stratify import stratified_part

        found = self.all_images()
        part = stratified_part(found["train"].labels, at_most=self.max_train_samples)
        return found | {"train": found["train"].rows(part)}

    def name_of(self, split: Split, index: int) -> str:
        return os.fsdecode(self.images[split].paths[index])

    @property
    def place(self) -> Place:
        return place_of(self.cache, self.cache_dir, self.cache_gb)

    def require_room_for_cache(self, estimate: Callable[[], int] = lambda: 0) -> None:
        """Raises BadData for a cache that would be too large, and for its folder; `estimate` gives its bytes."""
        if self.cache != "none":
            require_folder(self.place)
            require_room(self.place, estimate())

    def cache_lines(self, estimate: Callable[[], int] | None = None) -> list[str]:
        """For the plan."""
        if self.cache == "none":
            return []
        where = f"in {self.place.folder}" if self.cache == "disk" else "of memory"
        size = f", about {readable_size(estimate())}" if estimate else ""
        how, side = f"{size} {where}", self.cached_side
        if side is None:
            return [f"cache={self.cache} keeps all images as they are{how}"]
        lines = [f"cache={self.cache} keeps all images at a shorter side of {side} pixels{how}"]
        if not self.evaluates_resized:
            return [*lines, "so training sees no more of them than that; evaluation reads the files, at full size"]
        return [*lines, "so training resizes pixels a second time, which data.cache=none does not"]

    def readable(self, split: Split, *, training: bool) -> "Images":
        """What the workers read: with its cache, which is filled here where there is none. Collective."""
        images = self.images[split]
        if self.cache == "none" or not (training or self.evaluates_resized or self.cached_side is None):
            return images
        if split not in self._caches:
            from plainloop.data.cache.build import cached

            name, keep_bad = f"{images.folder_name}-{split}", self.on_bad_image == "skip"
            content = images.content(name, shorter_side=self.cached_side, keep_bad=keep_bad)
            self._caches[split] = cached(content, self.place, loader=self.loaders[split], timeout=self.timeout)
        return replace(images, cached=self._caches[split])

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        from plainloop.data.loading.sampler import Shard, order_of
        from plainloop.data.loading.workers import TrainKeys

        images = self.readable("train", training=True).augmented(self.sample_transforms, seed)
        if self.on_bad_image == "skip":
            images = images.without_bad_images("replace")
        order = order_of(images.labels, sampler=self.sampler, repeats=self.repeats, tall=images.tall)
        keys = TrainKeys(start, stop, order=order, batch_size=self.batch_size, seed=seed, shard=Shard.here())
        return self._batches(images, keys, "train")

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        from plainloop.data.loading.sampler import Shard, eval_rows, slice_of_train

        if split not in self.images:
            raise BadData(
                f"this data set has no {split} split; it has {' and '.join(self.images)}",
                hint=self.how_to_get_a_test_split,
            )
        images, shard = self.readable(split, training=False), Shard.here()
        if self.on_bad_image == "skip":
            images = images.without_bad_images("leave_out")
        among = slice_of_train(len(images), self.train_eval_samples) if split == "train" else range(len(images))
        rows = eval_rows(len(among), rank_batch=self.loaders[split].eval_batch(shard.world_size), shard=shard)
        keys = [[(0, int(among[position])) for position in row] for row in rows]
        return self._batches(images, keys, split, by_size=True)

    def _batches(self, images: "Images", keys: Any, split: Split, *, by_size: bool = False) -> Iterator[Batch]:
        from plainloop.data.loading.workers import batches
        from plainloop.distributed.process_group import pick_device

        def on_skip(index: int, why: str) -> None:
            self._skipped.append({"split": split, "index": index, "why": why})

        pin_memory, loader = pick_device(self.device).type == "cuda", self.loaders[split]
        made = partial(batches, images, keys, loader=loader, timeout=self.timeout, pin_memory=pin_memory)
        return made(on_skip=on_skip, by_size=by_size)

    def take_skipped(self) -> list[dict[str, Any]]:
        skipped, self._skipped = self._skipped, []
        return skipped

    def require_few_skipped(self, skipped: Sequence[Mapping[str, Any]]) -> None:
        for row in skipped:
            self._bad.setdefault(row["split"], set()).add(row["index"])
        for split, bad in self._bad.items():
            total = len(self.images[split])
            if len(bad) > math.ceil(self.max_bad_fraction * total):
                raise BadData(
                    f"{len(bad)} of the {total} images of {split} that were read so far cannot be decoded, more than "
                    f"data.max_bad_fraction={self.max_bad_fraction}",
                    hint="events.jsonl names them: mend or delete them, or go on with "
                    f"data.max_bad_fraction={min(1.0, 2 * len(bad) / total):.2g}",
                )


@dataclass(kw_only=True, eq=False)
class DecodedImages(DecodedFiles):
    """Images with labels, all of one size in the end.

    Args:
        crop_fraction: evaluation resizes the shorter side to image_size / crop_fraction and cuts out the centre;
            so does training, unless `sample_transforms` have given the image its size.
    """

    crop_fraction: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"data.crop_fraction={self.crop_fraction} must be above 0 and at most 1, such as 0.875")
        self.cached_side = self.cached_side or int(self.image_size / self.crop_fraction)

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        from plainloop.data.loading.decode import resize_and_crop
        from plainloop.data.loading.outside import after_a_cache

        source = cls(**arguments)
        prepare: Callable[[Tensor], Tensor] = partial(
            resize_and_crop, image_size=source.image_size, crop_fraction=source.crop_fraction
        )
        if source.cache != "none":
            prepare = partial(after_a_cache, shorter_side=source.cached_side, prepare=prepare)
        return Preprocessing(prepare, crop_fraction=source.crop_fraction)
