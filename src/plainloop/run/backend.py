"""torch's global switches, the wrappers of a model, and what to type when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from plainloop.distributed import collectives
from plainloop.errors import BadConfig, NonFinite, OutOfMemory, RunError

# Of the allocators of the CPU, of CUDA's driver and of its libraries, whose errors have no type of their own.
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")


def prepare(
    *, deterministic: bool, detect_anomaly: bool, cudnn_benchmark: bool | Literal["auto"], tf32: bool = False
) -> None:
    """Sets torch's switches; called before the first use of the device.

    cuDNN's search for its fastest kernels pays because image sizes are fixed within a run, but its choice may differ
    from run to run.
    """
    torch.autograd.set_detect_anomaly(detect_anomaly)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")  # convolutions use TF32 in either case
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this workspace only
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic if cudnn_benchmark == "auto" else cudnn_benchmark


def wrap(
    model: nn.Module,
    device: torch.device,
    *,
    compile: bool | str,
    find_unused_parameters: bool,
    static_graph: bool,
    bucket_cap_mb: float | None,
) -> nn.Module:
    """What runs the forward pass of training: the model, in DDP where there are several ranks, compiled if asked.

    Args:
        compile: whether, or in which mode of torch.compile; the loss, the draws and the rate stay outside.
    """
    if collectives.world_size() > 1:
        model = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=find_unused_parameters,
            static_graph=static_graph,
            bucket_cap_mb=bucket_cap_mb,
        )
    if compile:
        return torch.compile(model, mode=None if compile is True else compile)  # type: ignore[return-value]
    return model


@contextmanager
def errors_explained(*, accumulate: int, rank_batch: int, command: Callable[[str], str]) -> Iterator[None]:
    """Says what to type after torch's out-of-memory errors; anomaly mode's errors become NonFinite.

    Args:
        rank_batch: samples of one rank per step, which micro-batches have to divide.
        command: from an override to the command that continues the run with it.
    """
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or any(words in first_line for words in OUT_OF_MEMORY):
            first_line = first_line.partition(" If reserved but")[0]  # advice about torch's allocator
            more = next((n for n in range(2 * accumulate, rank_batch + 1) if rank_batch % n == 0), None)
            hint = "one sample does not fit: a smaller model, or smaller images"
            if more:
                hint = f"smaller micro-batches, the same samples per step: {command(f'trainer.accumulate={more}')}"
            raise OutOfMemory(f"out of memory: {first_line}", hint=hint) from error
        if "returned nan values in its" in first_line:  # anomaly mode, which has shown the forward pass before
            raise NonFinite(first_line, hint="the lines above name the operation of the forward pass") from error
        if "deterministic implementation" in first_line:
            what = first_line.partition(", but you set")[0]
            hint = "another layer or augmentation, or a new run with trainer.deterministic=false"
            raise BadConfig(f"trainer.deterministic=true: {what}", hint=hint) from error
        if "C compiler" in str(error) or "C++ compiler" in str(error):
            raise BadConfig(
                "trainer.compile=true needs a C compiler, and none was found",
                hint="install gcc and g++, or name them in CC and CXX, or type trainer.compile=false",
            ) from error
        if "device-side assert" in first_line:  # raised by whatever waits for the device next
            raise RunError(
                first_line, hint="often a label out of range: the same command with device=cpu says where"
            ) from error
        raise
