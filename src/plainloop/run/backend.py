"""torch's global switches, and what to say when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from plainloop.config.settings import TrainerSettings
from plainloop.distributed import collectives
from plainloop.errors import NonFinite, OutOfMemory, RunError


def prepare(*, deterministic: bool, detect_anomaly: bool) -> None:
    """Before the first use of the device. Image sizes are fixed within a run, so cuDNN may search for its fastest
    kernels, unless the result must be the same each time."""
    torch.autograd.set_detect_anomaly(detect_anomaly)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this workspace only
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def wrap(model: nn.Module, told: TrainerSettings, device: torch.device) -> nn.Module:
    """What runs the forward pass of training: the model, its DDP wrapper where there are ranks, compiled if asked."""
    if collectives.world_size() > 1:
        model = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=told.find_unused_parameters,
            static_graph=told.static_graph,
        )
    return torch.compile(model) if told.compile else model  # type: ignore[return-value]


@contextmanager
def errors_explained(accumulate: int) -> Iterator[None]:
    """Turns torch's out-of-memory errors into one that says what to type next, and anomaly mode's into NonFinite."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in first_line:
            raise OutOfMemory(
                f"out of memory: {first_line}",
                hint=f"add trainer.accumulate={2 * accumulate}: half the memory, the same samples per step",
            ) from error
        if "returned nan values in its" in first_line:  # anomaly mode, which has shown the forward pass before
            raise NonFinite(first_line, hint="the lines above name the operation of the forward pass") from error
        if "DataLoader worker" in first_line:  # torch says so from a signal handler, wherever the main thread is
            raise RunError(first_line, hint="memory? fewer data.num_workers hold less of it") from error
        raise
