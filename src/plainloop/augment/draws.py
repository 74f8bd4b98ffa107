"""Random numbers for a whole batch on its device: drawn for the global batch, of which each rank takes its rows.

The loop seeds the generator used here from (seed, step) alone, so one rank, two or four see the same augmented images.
Three things differ from rank to rank: partners of mixup, cutmix and mosaic, dropout in the model, and a function of
somebody else that draws from torch's global generators.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.system import rng


def uniform(batch: Batch, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(B, *shape) float32, uniform in [low, high): this rank's rows."""
    size, device = len(batch["image"]), batch["image"].device
    drawn = torch.rand(size * collectives.world_size(), *shape, generator=rng.shared(device), device=device)
    return _rows(drawn, size) * (high - low) + low


def integers(batch: Batch, *shape: int, below: int) -> Tensor:
    """(B, *shape) int64, uniform in 0, ..., below - 1."""
    return (uniform(batch, *shape) * below).long()


def log_uniform(batch: Batch, *shape: int, low: float, high: float) -> Tensor:
    """(B, *shape) float32, whose logarithm is uniform: 1/3 to 1 is as likely as 1 to 3."""
    return uniform(batch, *shape, low=math.log(low), high=math.log(high)).exp()


def chosen(batch: Batch, p: float) -> Tensor:
    """(B,) bool: each sample with probability p, on its own."""
    return uniform(batch) < p


def beta(batch: Batch, alpha: float) -> Tensor:
    """(B,) float32 from Beta(alpha, alpha), which two gamma variables give."""
    size, device = len(batch["image"]), batch["image"].device
    concentration = torch.full((size * collectives.world_size(), 2), float(alpha), device=device)
    first, second = _rows(torch._standard_gamma(concentration, generator=rng.shared(device)), size).unbind(1)
    return first / (first + second).clamp(min=torch.finfo(torch.float32).tiny)


def partners(batch: Batch) -> Tensor:
    """(B,) int64: a random permutation of this rank's samples. A partner of another rank would have to be sent."""
    return uniform(batch).argsort()


def seeds(batch: Batch) -> list[int]:
    """One for each sample, on the host: for what draws for one sample after the other from global generators."""
    size = len(batch["image"])
    drawn = torch.randint(2**62, (size * collectives.world_size(),), generator=rng.shared(torch.device("cpu")))
    return _rows(drawn, size).tolist()


def noise(batch: Batch) -> Tensor:
    """Uniform in [0, 1), of the images' shape, a hash of one drawn number per sample and of the place in the image.

    Drawing it for the global batch would cost world_size times the memory and time.
    """
    image = batch["image"]
    seeds = (uniform(batch) * 2**24).long() << 20  # float32 has 24 random bits
    place = torch.arange(image[0].numel(), device=image.device)
    mixed = seeds[:, None] + place * 0x1E3779B97F4A7C15
    # The mixing steps of splitmix64 (https://doi.org/10.1145/2660193.2660195), with constants that fit into int64.
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift & (1 << 64 - shift) - 1)) * factor
    return ((mixed >> 40 & 0xFFFFFF).float() / 2**24).view(image.shape)


def _rows(drawn: Tensor, size: int) -> Tensor:
    return drawn[collectives.rank() * size : (collectives.rank() + 1) * size]
