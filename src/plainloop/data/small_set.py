"""What the data sets that are held on the device share.

This module has no `from __future__ import annotations`: the check reads these types in the signatures of subclasses.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.images import LabelledImages

if TYPE_CHECKING:
    from plainloop.data.memory import InMemory


@dataclass(kw_only=True, eq=False)
class SmallSet(LabelledImages):
    """A data set that is read whole, at the first batch. A subclass adds its own arguments, `known` and `read`.

    Args:
        only_classes: names of the classes to use; their order is the set's. None: all.
        folds: cuts the training samples into so many parts, each class in proportion, and validates on number `fold`;
            the set's own validation samples are then its test samples. None: the set's own split.
        fold: 0, 1, ...
    """

    only_classes: Sequence[str | int] | None = None
    folds: int | None = None
    fold: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds is not None or self.fold:
            from plainloop.data.loading.stratify import require_fold

            require_fold(self.folds, self.fold)

    @abstractmethod
    def read(self) -> Mapping[Split, Batch]:
        """Each split as one batch: image (N, C, H, W) uint8, label (N,) int64 or what else the task wants.

        Raises BadData for missing or damaged files.
        """

    def val_counts(self) -> Sequence[int]:
        """Validation samples of each class of the whole set; a set with labels has its own."""
        raise ValueError("data.only_classes is for images with one label; leave it out")

    def chosen(self, known: Facts) -> Facts:
        if self.only_classes is None and self.folds is None:
            return known
        from plainloop.data.loading.stratify import Fold, numbers_of

        if self.only_classes is not None:
            numbers = numbers_of(self.only_classes, known.class_names)
            of_train, of_val = known.class_counts or (), self.val_counts()
            counts = tuple(of_train[number] for number in numbers)
            known = replace(
                known,
                num_train=sum(counts),
                num_val=sum(of_val[number] for number in numbers),
                class_names=tuple(known.class_names[number] for number in numbers),
                class_counts=counts,
            )
        if self.folds is not None:
            counts = known.class_counts or (known.num_train,)
            held_out = Fold(self.folds, self.fold).counts(counts)
            left = tuple(count - out for count, out in zip(counts, held_out, strict=True))
            known = replace(known, num_train=sum(left), num_val=sum(held_out), class_counts=known.class_counts and left)
        return known

    def used(self) -> dict[Split, Batch]:
        """The splits with the chosen classes, numbered anew, validation being the fold where there are folds."""
        import numpy as np
        import torch

        from plainloop.data.loading.stratify import Fold, numbers_of
        from plainloop.data.memory import labels_of

        def rows(part: Batch, chosen: "np.ndarray[Any, Any]") -> Batch:
            where = torch.from_numpy(np.flatnonzero(chosen))
            return {name: tensor[where] for name, tensor in part.items()}

        splits = dict(self.read())
        if self.only_classes is not None:
            numbers = numbers_of(self.only_classes, self.known().class_names)
            for split, part in splits.items():
                kept = rows(part, np.isin(labels_of(part), numbers))
                splits[split] = kept | {"label": torch.searchsorted(torch.tensor(numbers), kept["label"])}
        if self.folds is not None:
            whole, own_val = splits["train"], splits["val"]
            is_val = Fold(self.folds, self.fold).mask(labels_of(whole))
            splits["train"], splits["val"] = rows(whole, ~is_val), rows(whole, is_val)
            splits.setdefault("test", own_val)
        return splits

    @cached_property
    def memory(self) -> "InMemory":
        import torch

        from plainloop.data.loading.stratify import stratified_part
        from plainloop.data.memory import InMemory, labels_of

        splits = self.used()
        part = torch.from_numpy(stratified_part(labels_of(splits["train"]), at_most=self.max_train_samples))
        splits["train"] = {name: tensor[part] for name, tensor in splits["train"].items()}
        return InMemory(
            splits,
            loaders=self.loaders,
            device=self.device,
            train_eval_samples=self.train_eval_samples,
            sampler=self.sampler,
            repeats=self.repeats,
        )

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        return self.memory.train_batches(start, stop, seed)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        return self.memory.eval_batches(split)
