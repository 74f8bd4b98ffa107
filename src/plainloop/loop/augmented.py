"""A batch as training sees it at a step: seeded from its position, on the device, in float, augmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from plainloop.contracts import Augment, Batch
from plainloop.distributed import collectives
from plainloop.loop.normalize import to_device
from plainloop.system import rng


def augmented(
    batch: Batch,
    step: int,
    *,
    seed: int,
    device: torch.device,
    prepare: Callable[[Batch], Batch],
    augment: Sequence[Augment],
    torch_draws_alone: bool = False,
) -> Batch:
    """The batch before normalization. Leaves the generators seeded for what the step draws later, such as dropout.

    Args:
        step: finished optimizer steps.
    """
    rng.seed_step(seed, step, collectives.rank(), device, torch_alone=torch_draws_alone)
    batch = prepare(to_device(batch, device))
    for function in augment:
        batch = function(batch, step)
    return batch
