"""Photographs in class folders, decoded by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from plainloop.contracts import Facts, Split
from plainloop.data.cache.place import estimate_of
from plainloop.data.decoded import IMAGENET_MEAN, IMAGENET_STD, DecodedImages
from plainloop.data.loading.labels import list_labelled
from plainloop.data.loading.listing import Listings, list_splits, refuse_empty_files
from plainloop.data.loading.stratify import require_fold

if TYPE_CHECKING:
    from plainloop.data.loading.samples import Images


@dataclass(kw_only=True, eq=False)
class ImageFolder(DecodedImages):
    """`root` has train/, val/ and perhaps test/ with class folders, or class folders alone; then each class is split.

    Args:
        labels: a file in `root` of file,label rows (or "file label" lines) that says the classes instead of folders; of
            validation and test in `val.labels` and `test.labels`. None: class folders.
        val_fraction: the share of each class to validate on where `root` has no val/; the same images for every seed.
        only_classes: names of the classes to use; their order stays. None: all.
        folds: cuts the training images into so many parts, each class in proportion, and validates on number `fold`;
            val/ of `root` is then its test split, if it has no other. None: val/ or `val_fraction`.
        fold: 0, 1, ...
        group_column: of the file of `labels`; images with the same value there, such as those of one patient, are in
            the same fold. None: each image is on its own.
        allow_changed: lets a run be resumed when files were added or removed; it is then no longer the same run.

    Raises BadData for folders that cannot be trained on; batches raise it for a damaged file.
    """

    root: str
    labels: str | None = None
    val_fraction: float = 0.2
    only_classes: Sequence[str | int] | None = None
    folds: int | None = None
    fold: int = 0
    group_column: str | None = None
    allow_changed: bool = False

    changes_no_result: ClassVar = (*DecodedImages.changes_no_result, "allow_changed")
    split_keys: ClassVar = ("labels",)
    how_to_get_a_test_split: ClassVar = "make test/ in data.root"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fold(self.folds, self.fold)
        if self.group_column and self.folds is None:
            raise ValueError(f"data.group_column={self.group_column} keeps groups together in folds: type data.folds=5")

    @classmethod
    def facts(cls, **arguments: Any) -> Facts:
        source = cls(**({"batch_size": 1} | arguments))
        if source.on_bad_image == "raise":
            refuse_empty_files(source.listings())
        return super().facts(**arguments)

    def known(self) -> Facts:
        mean, std = self.statistics(IMAGENET_MEAN, IMAGENET_STD)
        found, shape = self.listings(), (3, self.image_size, self.image_size)
        self.require_room_for_cache(self.estimate)
        counts, names = found.class_counts, found.train.class_names
        return Facts(sum(counts), found.num_val, names, shape, mean, std, counts, found.files_hash())

    def listings(self) -> Listings:
        files = {split: own["labels"] for split, own in self.of_split.items()}
        files["train"] = files["train"] or self.labels
        if any(files.values()):
            found = list_labelled(self.root, files, val_fraction=self.val_fraction, group_column=self.group_column)
        elif self.group_column:
            raise ValueError(
                f"data.group_column={self.group_column} is a column of a file: type data.labels=<file.csv>"
            )
        else:
            found = list_splits(self.root, val_fraction=self.val_fraction)
        found = found if self.only_classes is None else found.only(self.only_classes)
        return found if self.folds is None else found.in_folds(self.folds, self.fold)

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        source = cls(**arguments)
        lines = [*source.listings().plan_lines(), *super().plan_lines(**arguments)]
        return [*lines, *source.cache_lines(source.estimate)]

    def estimate(self) -> int:
        found = self.listings()
        parts = [part for split, part in found.splits.items() if split != "test"]
        files = ((part.folder / path for path in part.paths) for part in parts)
        return estimate_of((str(found.root), found.files_hash()), files, self.cached_side)

    @classmethod
    def file_names(cls, **arguments: Any) -> Iterator[str]:
        return cls(**arguments).listings().sized_names()

    def all_images(self) -> dict[Split, Images]:
        from plainloop.data.loading.samples import split_images

        return split_images(self.listings(), image_size=self.image_size, crop_fraction=self.crop_fraction)
