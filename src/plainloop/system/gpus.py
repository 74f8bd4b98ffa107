"""The GPUs of this machine, as nvidia-smi lists them: a process that has initialised CUDA can no longer fork jobs."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass

_ASK_S = 30.0  # nvidia-smi answers in a second, unless a driver is broken


@dataclass(frozen=True)
class Gpu:
    index: str
    uuid: str
    name: str
    capability: tuple[int, int]


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Every GPU of the machine; none without an NVIDIA driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    asked = [program, "--query-gpu=index,uuid,compute_cap,name", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=_ASK_S, check=False)
    return parse(answer.stdout) if answer.returncode == 0 else ()


def parse(answer: str) -> tuple[Gpu, ...]:
    """
    >>> parse("0, GPU-3f, 9.0, NVIDIA H200")
    (Gpu(index='0', uuid='GPU-3f', name='NVIDIA H200', capability=(9, 0)),)
    """
    found = []
    for line in answer.splitlines():
        index, uuid, capability, name = (part.strip() for part in line.split(",", 3))
        major, _, minor = capability.partition(".")
        found.append(Gpu(index, uuid, name, (int(major), int(minor or 0)) if major.isdigit() else (0, 0)))
    return tuple(found)


def visible_gpus() -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES; without that variable, every GPU of the machine.

    An entry that is no device hides the entries after it, as in CUDA.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [gpu.index for gpu in gpus()]
    found: list[str] = []
    for entry in (part.strip() for part in given.split(",")):
        if entry in found or not any(_means(entry, gpu) for gpu in gpus()):
            break
        found.append(entry)
    return found


def first_visible() -> Gpu | None:
    """The GPU that torch calls cuda:0."""
    entry = next(iter(visible_gpus()), None)
    return next((gpu for gpu in gpus() if entry is not None and _means(entry, gpu)), None)


def _means(entry: str, gpu: Gpu) -> bool:
    """Whether an entry names this GPU. nvidia-smi does not list parts of a GPU (MIG): their names are accepted."""
    return (
        entry in (gpu.index, gpu.uuid)
        or entry.startswith("MIG-")
        or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
    )
