"""Micro-batches: a rank's part of a step in pieces, weighted so that the whole is what one process computes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop import distributed
from plainloop.contracts import Batch, Task


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cuts every tensor into `parts` equal micro-batches along its first dimension."""
    if parts == 1:
        return [batch]
    pieces = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    return [{name: chunks[number] for name, chunks in pieces.items()} for number in range(parts)]


def shares_of(task: Task, micro_batches: Sequence[Batch]) -> Sequence[Tensor | float]:
    """The share of the global batch's weight that lies in each micro-batch of this rank. Collective.

    Weighted with them, the sum over ranks and micro-batches of mean losses is the mean loss of one process.
    """
    if len(micro_batches) == 1 and distributed.world_size() == 1:
        return [1.0]
    weights = torch.stack([task.weight(micro_batch).float() for micro_batch in micro_batches])
    total = distributed.sum_(weights.sum())
    return list((weights / total.clamp_min(torch.finfo(weights.dtype).tiny)).unbind())


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Leaves the gradients of a micro-batch that is not the last one on this rank."""
    return model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()  # type: ignore[operator]
