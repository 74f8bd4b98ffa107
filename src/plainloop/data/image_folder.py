"""Photographs in class folders, decoded by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.images import channel_statistics, example_batch
from plainloop.data.loaders import INHERIT, Loader, check_settings, loaders
from plainloop.data.loading.listing import Listings, list_splits
from plainloop.errors import BadData

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolder:
    """`root` holds train/, val/ and perhaps test/ of class folders, or class folders alone; then each class is split.

    Args:
        num_workers: processes of each rank; `auto` is four, or fewer where fewer CPUs are granted. Changes no bit.
        prefetch: batches that each worker holds ready.
        timeout: seconds; a batch that takes longer ends the run.
        image_size: pixels, of the square that the model sees.
        crop_fraction: evaluation resizes the shorter side to image_size / crop_fraction and cuts out the centre;
            so does training, unless `sample_transforms` have given the image its size.
        val_fraction: the share of each class to validate on where `root` has no val/; the same images for every seed.
        train_eval_samples: how many training samples are measured without augmentation.
        sample_transforms: image (3, H, W) uint8 of any size -> the same; for training only, in order.

    Raises BadData for folders that cannot be trained on; batches raise it for a damaged file.
    """

    changes_no_result = ("root", "timeout", "*num_workers", "*prefetch")

    def __init__(
        self,
        *,
        root: str,
        batch_size: int,
        num_workers: int | Literal["auto"] = "auto",
        prefetch: int = 2,
        timeout: float = 300,
        cache: Literal["none"] = "none",
        image_size: int = 224,
        crop_fraction: float = 0.875,
        val_fraction: float = 0.2,
        train_eval_samples: int = 2000,
        device: str = "auto",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        train: Mapping[str, Any] = INHERIT,
        val: Mapping[str, Any] = INHERIT,
        test: Mapping[str, Any] = INHERIT,
        sample_transforms: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        from plainloop.data.loading import sampler
        from plainloop.data.loading.samples import split_images
        from plainloop.distributed import process_group

        self.loaders = loaders(Loader(batch_size, num_workers, prefetch), train=train, val=val, test=test)
        self.batch_size = self.loaders["train"].batch_size
        self.timeout = timeout
        self.pin_memory = process_group.pick_device(device).type == "cuda"
        self.sample_transforms = tuple(sample_transforms)
        listings = checked(root, image_size, crop_fraction, val_fraction, timeout)
        self.images = split_images(listings, image_size=image_size, crop_fraction=crop_fraction)
        sampler.steps_per_epoch(len(self.images["train"]), self.batch_size)
        self.shard = sampler.Shard.here()
        self.shard.rows_of(self.batch_size)
        self.slice_of_train = sampler.slice_of_train(len(self.images["train"]), train_eval_samples)

    @classmethod
    def facts(
        cls,
        *,
        root: str,
        timeout: float = 300,
        image_size: int = 224,
        crop_fraction: float = 0.875,
        val_fraction: float = 0.2,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **settings: Any,
    ) -> Facts:
        check_settings(settings)
        mean, std = channel_statistics(mean, std, channels=3)
        listings = checked(root, image_size, crop_fraction, val_fraction, timeout)
        shape = (3, image_size, image_size)
        return Facts(listings.num_train, listings.num_val, listings.train.class_names, shape, mean, std)

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return example_batch(facts, batch_size)

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        from plainloop.data.loading.workers import TrainKeys, batches

        images = self.images["train"].augmented(self.sample_transforms, seed)
        where = {"num_samples": len(images), "batch_size": self.batch_size}
        keys = TrainKeys(start, stop, **where, seed=seed, shard=self.shard)
        return batches(images, keys, loader=self.loaders["train"], timeout=self.timeout, pin_memory=self.pin_memory)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        from plainloop.data.loading import sampler
        from plainloop.data.loading.workers import batches

        if split not in self.images:
            raise BadData(
                f"this data set has no {split} split; it has {' and '.join(self.images)}",
                hint="make test/ in data.root",
            )
        images, loader = self.images[split], self.loaders[split]
        among = self.slice_of_train if split == "train" else range(len(images))
        rows = sampler.eval_rows(len(among), batch_size=loader.batch_size, shard=self.shard)
        keys = [[(0, int(among[position])) for position in row] for row in rows]
        return batches(images, keys, loader=loader, timeout=self.timeout, pin_memory=self.pin_memory)


def checked(root: str, image_size: int, crop_fraction: float, val_fraction: float, timeout: float) -> Listings:
    """Lists the folder once the settings are known to be right."""
    if image_size < 1:
        raise ValueError(f"data.image_size={image_size} must be at least 1 pixel")
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"data.crop_fraction={crop_fraction} must be above 0 and at most 1, such as 0.875")
    if timeout <= 0:
        raise ValueError(f"data.timeout={timeout} must be above 0 seconds")
    return list_splits(root, val_fraction=val_fraction)
