"""Micro-batches: a rank's part of a batch in pieces, weighted so that the sum is what one process computes."""

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
    """Each micro-batch's share of the weight of the global batch. Collective.

    The sum of share x mean loss over ranks and micro-batches is the mean loss that one process would compute.
    """
    if len(micro_batches) == 1 and collectives.world_size() == 1:
        return [1.0]
    weights = torch.stack([task.weight(micro_batch).float() for micro_batch in micro_batches])
    total = collectives.sum_(weights.sum())
    return list((weights / total.clamp_min(torch.finfo(weights.dtype).tiny)).unbind())


def no_sync(model: nn.Module) -> AbstractContextManager[Any]:
    """Skips DDP's all-reduce for all micro-batches but the last."""
    return model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()  # type: ignore[operator]


def fix_ddp_bucket_order(
    model: nn.Module,
    micro_batch: Batch,
    task: Task,
    autocast: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> None:
    """Runs one throw-away backward pass so that DDP fixes its buckets before the first real step. Collective.

    DDP reorders its buckets after its first backward pass. From three ranks on, the order in which a gradient is summed
    depends on its place in a bucket: the first step after a resume would round differently from an undisturbed run.
    Weights, buffers and random numbers stay as they were.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with rng.drawing_from(0, device), autocast():
        loss, _ = task.loss(model, micro_batch)
    loss.backward()
    model.zero_grad()
    for buffer, before in buffers:
        buffer.copy_(before)
