"""Photographs with masks, decoded by worker processes; evaluated at full size.

This module has no `from __future__ import annotations`: the check reads these types in the signature.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plainloop.contracts import Batch, Facts, Preprocessing, Split
from plainloop.data.cache.place import estimate_of
from plainloop.data.decoded import IMAGENET_MEAN, IMAGENET_STD, DecodedFiles
from plainloop.data.masks.example import mask_batch, refuse_class_balanced
from plainloop.data.masks.pairs import Naming, Pairs, find_pairs
from plainloop.data.text import lines_of
from plainloop.errors import BadData

if TYPE_CHECKING:
    from plainloop.data.loading.samples import Images
    from plainloop.data.masks.read import Reading


@dataclass(kw_only=True, eq=False)
class MaskFolder(DecodedFiles, Naming):
    """`root` has images and masks: images/train, masks/train and so on, train/images, train/masks, or images and masks.

    Images are cut to `image_size` in training. They are evaluated as they are, one at a time unless
    val.batch_size_per_device says more.

    Args:
        class_names: in the order of the classes; or a file in `root` with one name a line.
        num_classes: instead of names.
        first_class: the value in the masks of the first class; the next class has the next value.
        ignore_index: the value of pixels without a class. None: every value is a class.
        mask_values: pairs of a value and its class (255: none), where values and classes are not in one order.
        palette: of RGB masks: the colour of each class.
        ignored_colour: of RGB masks: the colour of pixels without a class.
        val_fraction: the share of the images to validate on if there is no val; the same images for every seed.
        allow_changed: lets a run be resumed when files were added or removed; it is then no longer the same run.

    Raises BadData for folders that cannot be trained on; batches raise it for a damaged image and for a wrong mask.
    """

    root: str
    class_names: Sequence[str] | str | None = None
    num_classes: int | None = None
    first_class: int = 0
    ignore_index: int | None = 255
    mask_values: Sequence[Sequence[int]] | None = None
    palette: Sequence[Sequence[int]] | None = None
    ignored_colour: Sequence[int] | None = None
    val_fraction: float = 0.2
    allow_changed: bool = False

    changes_no_result: ClassVar = (*DecodedFiles.changes_no_result, "allow_changed")
    evaluates_resized: ClassVar = False
    how_to_get_a_test_split: ClassVar = "make test folders, or a list for test"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_class_balanced(self.sampler)
        for split, loader in self.loaders.items():  # at full size, several may not fit into memory
            self.loaders[split] = replace(loader, batch_size_per_device=loader.batch_size_per_device or 1)

    def known(self) -> Facts:
        mean, std = self.statistics(IMAGENET_MEAN, IMAGENET_STD)
        pairs, names = self.pairs(), self.names()
        reading = self.reading()
        if len(names) == 2 and self.ignore_index is not None and self.mask_values is None and self.palette is None:
            from plainloop.data.masks.read import require_second_class

            require_second_class([pairs.root / mask for _, mask in pairs.train], reading, self.ignore_index)
        self.require_room_for_cache(self.estimate)
        shape = (3, self.image_size, self.image_size)
        return Facts(len(pairs.train), len(pairs.val), names, shape, mean, std, files_hash=pairs.files_hash())

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return mask_batch(facts, batch_size)

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        from plainloop.data.loading.outside import as_it_is

        return Preprocessing(as_it_is, one_size=False)

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        source = cls(**arguments)
        return [*source.pairs().notes, *super().plan_lines(**arguments), *source.cache_lines(source.estimate)]

    @classmethod
    def file_names(cls, **arguments: Any) -> Iterator[str]:
        return cls(**arguments).pairs().file_names()

    def estimate(self) -> int:
        found = self.pairs()
        parts = [found.train, found.val] if self.cached_side is None else [found.train]
        files = ((found.root / image for image, _ in pairs) for pairs in parts)
        return estimate_of((str(found.root), found.files_hash()), files, self.cached_side, channels=4)

    def pairs(self) -> Pairs:
        return find_pairs(self.root, self, val_fraction=self.val_fraction)

    def names(self) -> tuple[str, ...]:
        if isinstance(self.class_names, str):
            file = Path(self.root).expanduser() / self.class_names
            if not file.is_file():
                raise BadData(f"data.class_names={self.class_names}: there is no file {file}")
            names = [line for line in lines_of(file) if line]
        elif self.class_names is not None:
            names = list(self.class_names)
        else:
            names = [str(number) for number in range(self.num_classes or 0)]
        if len(names) < 2 or (self.num_classes is not None and self.num_classes != len(names)):
            raise ValueError(
                f"data.class_names and data.num_classes give {len(names)} and {self.num_classes} classes, and "
                "2 or more are needed; type data.class_names=[background,road], in the order of the values in the masks"
            )
        return tuple(names)

    def reading(self) -> "Reading":
        from plainloop.data.masks.read import reading_of

        return reading_of(
            len(self.names()),
            first_class=self.first_class,
            ignore_index=self.ignore_index,
            mask_values=self.mask_values,
            palette=self.palette,
            ignored_colour=self.ignored_colour,
        )

    def all_images(self) -> "dict[Split, Images]":
        from plainloop.data.masks.samples import MaskedImages

        found = self.pairs()
        return {
            split: MaskedImages.of(found.root, pairs, self.reading(), self.image_size)
            for split, pairs in found.splits.items()
        }
