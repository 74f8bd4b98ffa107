"""What the data sets that are held on the device share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from plainloop.contracts import Batch, Split
from plainloop.data.images import LabelledImages

if TYPE_CHECKING:
    from plainloop.data.memory import InMemory


class SmallSet(LabelledImages):
    """A data set that is read whole, at the first batch. A subclass adds its own arguments, `known` and `read`."""

    def read(self) -> Mapping[Split, Batch]:
        """Each split as one batch: image (N, C, H, W) uint8, label (N,) int64 or what else the task wants.

        Raises BadData for missing or damaged files.
        """
        raise NotImplementedError

    @cached_property
    def memory(self) -> InMemory:
        import torch

        from plainloop.data.loading.stratify import stratified_part
        from plainloop.data.memory import InMemory, labels_of

        splits = dict(self.read())
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
