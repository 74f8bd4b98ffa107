"""Random numbers that depend on the seed and the position (epoch, step, sample) only."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch

# Streams: the first part of every key, so that equal positions in different roles draw different numbers.
INIT, ORDER, SAMPLE, STEP, EVAL, SPLIT, SHARED, REPLACE = range(8)

_shared: dict[torch.device, torch.Generator] = {}
_seeded: set[torch.device] = set()  # those whose shared generator has been seeded in this step
_position = (0, 0)  # seed and step of that step


def fold(*parts: int) -> int:
    """A seed in [0, 2**63) from integers in order; nearby parts give unrelated seeds.

    >>> fold(1, 2) == fold(1, 2), fold(1, 2) == fold(2, 1), fold(1, 2) == fold(1, 2, 0)
    (True, False, False)
    """
    digest = blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all(seed: int, device: torch.device | None = None) -> None:
    """Seeds the global generators of Python, NumPy, torch's CPU and `device`."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    seed_torch(seed, device)


def seed_torch(seed: int, device: torch.device | None = None) -> None:
    """Seeds torch's generators alone, of the CPU and of `device`.

    Reaches for the generators themselves: `torch.manual_seed` costs over 100 us where CUDA is built in but not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device is not None and device.type == "mps":
        torch.mps.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int, device: torch.device, *, torch_alone: bool = False) -> None:
    """Before the draws of a step: the global generators differ by rank, the shared one is the same on all ranks.

    Args:
        torch_alone: leaves out Python's and NumPy's generators, which take 20 us of a step.
    """
    global _position
    (seed_torch if torch_alone else seed_all)(fold(STEP, seed, step, rank), device)
    _position = seed, step
    _seeded.clear()


def shared(device: torch.device) -> torch.Generator:
    """The generator for what every rank must draw alike, seeded where a step asks for it first."""
    if device not in _shared:
        _shared[device] = torch.Generator(device)
    if device not in _seeded:
        _shared[device].manual_seed(fold(SHARED, *_position))
        _seeded.add(device)
    return _shared[device]


@contextmanager
def drawing_from(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside the block, numbers are drawn from `seed`; afterwards the generators are as they were before.

    A data worker draws for samples alone, each from its own seed: there the generators stay as they are, which saves
    the most of the time that this takes.
    """
    if torch.utils.data.get_worker_info() is not None:
        seed_all(seed, device)
        yield
        return
    python, numpy = random.getstate(), np.random.get_state()
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        seed_all(seed, device)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
