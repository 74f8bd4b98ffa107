"""The process group, this process's place in it, and exact reductions.

Rank and world size are read from the environment that torchrun, `trainer.devices` and our launchers set (RANK,
WORLD_SIZE, LOCAL_RANK); without it there is one process and every collective here is a no-op.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)  # of a collective; a rank that hangs ends the run after it


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0)) if dist.is_initialized() else 0


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. On CUDA each rank has its own: local rank modulo visible devices.

    Raises ValueError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; type device=cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps, but this machine has none; type device=cpu")
    if name == "cuda":
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return torch.device(name)


@contextmanager
def process_group(device_name: str) -> Iterator[None]:
    """Joins the ranks for the time of the block; does nothing for one process. Collective."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    cuda = device_name in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


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
