"""A whole data set on the device as bytes. Batches are indexed there, without workers, copies or waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plainloop.contracts import Batch, Split
from plainloop.data.loaders import Loader
from plainloop.data.loading import sampler as sampling
from plainloop.data.loading.sampler import Indices
from plainloop.distributed import process_group
from plainloop.errors import BadData


class InMemory:
    """Batches of small sets. A source has one and passes its `train_batches` and `eval_batches` on.

    Args:
        splits: "train", "val" and perhaps "test"; each with image (N, C, H, W) uint8, and what else a batch has;
            or a pair of images and labels (N,) int64.
        device: `auto`, `cuda`, `cpu` or `mps`.
        train_eval_samples: how many training samples `eval_batches("train")` gives, at most all; 0: none.
        sampler: `shuffled` or `class_balanced`.
        repeats: how often each sample that is drawn is in the batch; an epoch then has 1 / repeats of the samples.
    """

    def __init__(
        self,
        splits: Mapping[Split, Batch | tuple[Tensor, Tensor]],
        *,
        loaders: Mapping[Split, Loader],
        device: str,
        train_eval_samples: int,
        sampler: Literal["shuffled", "class_balanced"] = "shuffled",
        repeats: int = 1,
    ) -> None:
        self.batch_size = loaders["train"].batch_size
        self.loaders = loaders
        self.shard = sampling.Shard.here()
        self.device = process_group.pick_device(device)
        named = {
            split: part if isinstance(part, Mapping) else dict(zip(("image", "label"), part, strict=True))
            for split, part in splits.items()
        }
        self.splits = {split: {name: t.to(self.device) for name, t in part.items()} for split, part in named.items()}
        self.num_train = len(named["train"]["image"])
        self.order = sampling.order_of(labels_of(named["train"]), sampler=sampler, repeats=repeats)
        sampling.steps_per_epoch(self.num_train, self.batch_size)
        self.shard.rows_of(self.batch_size)
        slice_of_train = sampling.slice_of_train(self.num_train, train_eval_samples)
        self.eval_indices = {"train": self._in_batches("train", slice_of_train)}
        for split in splits.keys() - {"train"}:
            self.eval_indices[split] = self._in_batches(split, np.arange(len(named[split]["image"])))

    def _in_batches(self, split: Split, samples: Indices) -> list[Tensor]:
        """This rank's share of these samples, put on the device once: evaluating copies nothing."""
        rank_batch = self.loaders[split].eval_batch(self.shard.world_size)
        rows = sampling.eval_rows(len(samples), rank_batch=rank_batch, shard=self.shard)
        return [torch.from_numpy(samples[row]).to(self.device) for row in rows]

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        steps = sampling.steps_per_epoch(self.num_train, self.batch_size)
        for epoch in range(start // steps, (stop - 1) // steps + 1):
            rows = self._upload(epoch, seed)
            for position in range(max(start - epoch * steps, 0), min(stop - epoch * steps, steps)):
                yield self._rows("train", rows[position])

    def _upload(self, epoch: int, seed: int) -> Tensor:
        """Starts the copy of this rank's order of an epoch to the device: (steps per epoch, rank's batch size)."""
        where = {"batch_size": self.batch_size, "seed": seed, "epoch": epoch}
        rows = torch.tensor(sampling.epoch_rows(self.order, **where, shard=self.shard))
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        return rows.to(self.device, non_blocking=True)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        if split not in self.splits:
            raise BadData(f"this data set has no {split} split; it has {' and '.join(self.splits)}")
        for index in self.eval_indices[split]:
            yield self._rows(split, index)

    def _rows(self, split: Split, index: Tensor) -> Batch:
        return {name: tensor.index_select(0, index) for name, tensor in self.splits[split].items()} | {"index": index}


def labels_of(samples: Batch) -> Indices:
    """(N,): the class of each sample; 0 where samples have no label of their own, as with masks."""
    labels: Indices = samples["label"].numpy(force=True) if "label" in samples else np.zeros(len(samples["image"]), int)
    return labels
