"""Micro-batches: a rank's part of a step in pieces, weighted so that the whole is what one process computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.contracts import Batch, Task
from plainloop.distributed import collectives
from plainloop.system import rng


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
    if len(micro_batches) == 1 and collectives.world_size() == 1:
        return [1.0]
    weights = torch.stack([task.weight(micro_batch).float() for micro_batch in micro_batches])
    total = collectives.sum_(weights.sum())
    return list((weights / total.clamp_min(torch.finfo(weights.dtype).tiny)).unbind())


def no_sync(model: nn.Module) -> AbstractContextManager[Any]:
    """Leaves the gradients of a micro-batch that is not the last one on this rank."""
    return model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()  # type: ignore[operator]


def lay_out_buckets(
    model: nn.Module,
    micro_batch: Batch,
    task: Task,
    autocast: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> None:
    """Has DDP arrange gradients in the order in which they come, which it else does after its first real step.

    From three ranks on, the order in which their parts of a gradient are added up depends on where it lies: the first
    step after a resume would round otherwise than that of a run that nobody touched. Leaves weights, buffers and
    random numbers as they were. Collective.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with rng.drawing_from(0, device), autocast():
        loss, _ = task.loss(model, micro_batch)
    loss.backward()
    model.zero_grad()
    for buffer, before in buffers:
        buffer.copy_(before)
