"""What sources share whose images are decoded by worker processes.

This module has no `from __future__ import annotations`: the check reads these types in the signatures of subclasses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from plainloop.contracts import Batch, SampleTransform, Split
from plainloop.data.images import LabelledImages
from plainloop.errors import BadData

if TYPE_CHECKING:
    from plainloop.data.loading.samples import Images

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(kw_only=True, eq=False)
class DecodedImages(LabelledImages):
    """A subclass adds its own arguments, `known` and `all_images`.

    Args:
        num_workers: `auto` is four, or fewer where fewer CPUs are granted.
        timeout: seconds; a batch that takes longer ends the run.
        image_size: pixels, of the square that the model sees.
        crop_fraction: evaluation resizes the shorter side to image_size / crop_fraction and cuts out the centre;
            so does training, unless `sample_transforms` have given the image its size.
        sample_transforms: sample -> sample, the image (3, H, W) uint8 of any size; for training only, in order.
    """

    num_workers: int | Literal["auto"] = "auto"
    timeout: float = 300
    image_size: int = 224
    crop_fraction: float = 0.875
    sample_transforms: Sequence[SampleTransform] = ()

    changes_no_result: ClassVar = (*LabelledImages.changes_no_result, "timeout", "*prefetch")
    how_to_get_a_test_split: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 1:
            raise ValueError(f"data.image_size={self.image_size} must be at least 1 pixel")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"data.crop_fraction={self.crop_fraction} must be above 0 and at most 1, such as 0.875")
        if self.timeout <= 0:
            raise ValueError(f"data.timeout={self.timeout} must be above 0 seconds")

    def all_images(self) -> "dict[Split, Images]":
        """The splits whole, before `max_train_samples`."""
        raise NotImplementedError

    @cached_property
    def images(self) -> "dict[Split, Images]":
        from plainloop.data.loading.stratify import stratified_part

        found = self.all_images()
        part = stratified_part(found["train"].labels, at_most=self.max_train_samples)
        return found | {"train": found["train"].rows(part)}

    def readable(self, split: Split) -> "Images":
        """What the workers read. Collective."""
        return self.images[split]

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        from plainloop.data.loading.sampler import Shard, order_of
        from plainloop.data.loading.workers import TrainKeys

        images = self.readable("train").augmented(self.sample_transforms, seed)
        order = order_of(images.labels, sampler=self.sampler, repeats=self.repeats)
        keys = TrainKeys(start, stop, order=order, batch_size=self.batch_size, seed=seed, shard=Shard.here())
        return self._batches(images, keys, "train")

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        from plainloop.data.loading.sampler import Shard, eval_rows, slice_of_train

        if split not in self.images:
            raise BadData(
                f"this data set has no {split} split; it has {' and '.join(self.images)}",
                hint=self.how_to_get_a_test_split,
            )
        images, shard = self.readable(split), Shard.here()
        among = slice_of_train(len(images), self.train_eval_samples) if split == "train" else range(len(images))
        rows = eval_rows(len(among), rank_batch=self.loaders[split].eval_batch(shard.world_size), shard=shard)
        return self._batches(images, [[(0, int(among[position])) for position in row] for row in rows], split)

    def _batches(self, images: "Images", keys: Any, split: Split) -> Iterator[Batch]:
        from plainloop.data.loading.workers import batches
        from plainloop.distributed.process_group import pick_device

        pin_memory = pick_device(self.device).type == "cuda"
        return batches(images, keys, loader=self.loaders[split], timeout=self.timeout, pin_memory=pin_memory)
