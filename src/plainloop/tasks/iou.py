"""How well masks are met: mean intersection over union, accuracies of pixels and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.contracts import IGNORE, Batch
from plainloop.distributed import collectives
from plainloop.tasks.totals import share, widest_float


class MeanIoU:
    """Running totals of one pass, where the predictions are: every labelled pixel counts once.

    Gives miou, the mean over classes of intersection over union, without classes that occur neither in the masks nor in
    the predictions; macc, the mean over classes of the share of their pixels that is found, without classes that no
    mask has; pixel_accuracy; loss, the mean cross entropy over pixels, neither weighted nor smoothed; and iou/<name>
    for each of `names`, NaN for a class that does not occur.
    """

    def __init__(self, num_classes: int, *, names: Sequence[str] = ()) -> None:
        self.num_classes = num_classes
        self.names = names
        self._counts: Tensor | None = None  # int64: pixels of class i that are predicted as j, at i * num_classes + j
        self._loss: Tensor | None = None  # summed up

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Takes logits (B, num_classes, H, W) and `mask` (B, H, W). Neither waits for the device nor communicates."""
        logits, mask = prediction.float(), batch["mask"]
        cells = self.num_classes**2
        if self._counts is None or self._loss is None:
            self._counts = mask.new_zeros(cells + 1)  # the last one is for IGNORE
            self._loss = logits.new_zeros((), dtype=widest_float(logits.device))
        place = torch.where(mask == IGNORE, cells, mask * self.num_classes + logits.argmax(1)).flatten()
        self._counts.index_add_(0, place, torch.ones_like(place))
        losses = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="none")
        self._loss += losses.to(self._loss.dtype).sum()

    def compute(self) -> dict[str, float]:
        """NaN where there was no labelled pixel on any rank. Collective: one reduction."""
        if self._counts is None or self._loss is None:
            totals = torch.zeros(self.num_classes**2 + 1, dtype=torch.float64)
        else:
            # Waits for the device. On the host there is float64 on every machine, exact for counts up to 2**53.
            totals = torch.cat([self._counts[:-1].cpu().double(), self._loss.cpu().double().view(1)])
        return self.values(collectives.sum_(totals))

    def sums(self, prediction: Tensor, batch: Batch) -> Tensor:
        """(B, num_classes**2 + 1): the pixels of class i that are predicted as j, and the loss; as `update` counts."""
        logits, mask = prediction.float(), batch["mask"]
        cells = self.num_classes**2
        place = torch.where(mask == IGNORE, cells, mask * self.num_classes + logits.argmax(1)).flatten(1)
        sums = logits.new_zeros(len(mask), cells + 1, dtype=widest_float(logits.device))
        sums.scatter_add_(1, place, torch.ones_like(place, dtype=sums.dtype))
        losses = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="none")
        sums[:, -1] = losses.flatten(1).to(sums.dtype).sum(1)  # in place of the pixels that have no class
        return sums

    def values(self, totals: Tensor) -> dict[str, float]:
        confusion, loss = totals[:-1].view(self.num_classes, self.num_classes), float(totals[-1])
        right, labelled = confusion.diagonal().tolist(), confusion.sum(1).tolist()
        either = (confusion.sum(0) + confusion.sum(1) - confusion.diagonal()).tolist()
        ious, recalls = list(map(share, right, either)), list(map(share, right, labelled))
        result = {"loss": share(loss, sum(labelled)), "miou": mean(ious), "macc": mean(recalls)}
        result["pixel_accuracy"] = share(sum(right), sum(labelled))
        return result | {f"iou/{name}": iou for name, iou in zip(self.names, ious)}


def mean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN if none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return share(math.fsum(numbers), len(numbers))
