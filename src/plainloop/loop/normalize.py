"""From the bytes of a batch on the host to what the model sees."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from plainloop.contracts import Batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; the host waits for no copy from pinned memory.

    On CUDA such copies have a stream of their own, so that they run beside the kernels of the step before.
    """
    if device.type != "cuda" or all(tensor.is_cuda for tensor in batch.values()):
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    kernels, copies = torch.cuda.current_stream(device), _copies_to(device)
    with torch.cuda.stream(copies):
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    kernels.wait_stream(copies)
    for tensor in moved.values():
        tensor.record_stream(kernels)  # its memory was allocated for the other stream
    return moved


@functools.cache
def _copies_to(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def to_float(batch: Batch) -> Batch:
    """`image` (B, C, H, W) uint8 becomes float32 in [0, 1]; a float one passes as it is."""
    image = batch["image"]
    if image.dtype != torch.uint8:
        return batch
    return batch | {"image": image.float().div_(255)}


class Normalize:
    """Subtracts `mean` and divides by `std`, per channel, for images in [0, 1]; channels last in memory if asked."""

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool = False
    ) -> None:
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"data.mean={list(mean)} and data.std={list(std)}: one of each per channel, std above 0")
        scale = torch.tensor([1 / value for value in std])
        self.scale = scale.view(1, -1, 1, 1).to(device)
        self.shift = (-torch.tensor(mean) * scale).view(1, -1, 1, 1).to(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, batch: Batch) -> Batch:
        image = torch.addcmul(self.shift, batch["image"], self.scale)
        return batch | {"image": image.contiguous(memory_format=self.memory_format)}
