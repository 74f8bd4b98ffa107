"""This process's place among the ranks, and exact sums over them. Without a process group every function is a no-op."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_(tensor: Tensor) -> Tensor:
    """Adds up over ranks, in place, where the tensor is. Collective."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def max_(tensor: Tensor) -> Tensor:
    """Takes the largest over ranks, in place, where the tensor is. Collective."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def barrier() -> None:
    """Waits for all ranks. Collective."""
    sum_(torch.zeros(1))


def from_rank_0(value: Any) -> Any:
    """Rank 0's value on every rank, sent as JSON: nothing that is received is unpickled. Collective."""
    if world_size() == 1:
        return value
    sent = bytearray(json.dumps(value).encode()) if rank() == 0 else bytearray()
    size = torch.tensor([len(sent)])
    dist.broadcast(size, src=0)
    data = torch.frombuffer(sent, dtype=torch.uint8) if rank() == 0 else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, src=0)
    return json.loads(bytes(data.tolist()))


def share_buffers(model: torch.nn.Module) -> None:
    """Gives every rank rank 0's buffers: they are the ones that are saved. Collective."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def gather(value: Any) -> list[Any]:
    """Every rank's value on every rank, rank 0's first, sent as JSON; floats arrive to the last bit. Collective."""
    if world_size() == 1:
        return [value]
    sent = json.dumps(value).encode()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(sent)]))
    longest = max(int(size) for size in sizes)
    padded = torch.frombuffer(bytearray(sent.ljust(longest)), dtype=torch.uint8)
    received = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(received, padded)
    return [json.loads(bytes(data.tolist())) for data in received]


def gather_rows(rows: Tensor) -> Tensor:
    """All ranks' rows of a table on the host, rank 0's first; a table without rows may lack columns. Collective."""
    if world_size() == 1:
        return rows
    shapes = [torch.zeros(2, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(shapes, torch.tensor(rows.shape))
    most, columns = (max(int(shape[side]) for shape in shapes) for side in (0, 1))
    padded = rows.new_zeros(most, columns)
    padded[: len(rows), : rows.shape[1]] = rows
    received = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(received, padded)
    return torch.cat([part[: int(shape[0])] for part, shape in zip(received, shapes, strict=True)])
