"""A trained model that another one learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from plainloop.run.trained.open import open_run


def teacher_of(config: Mapping[str, Any], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model of the run that task.teacher names, in eval mode on the device: images as the student sees them, to
    logits, without gradients. It normalizes them anew where its mean and std are others.

    Raises BadConfig and BadData as `open_run` does.
    """
    trained = open_run(config["task"]["teacher"], device=str(device), plugins=config["plugins"])
    here, there = config["facts"], trained.config["facts"]
    mean, std, own_mean, own_std = (
        torch.tensor(facts[name], device=device).view(-1, 1, 1) for facts in (here, there) for name in ("mean", "std")
    )
    scale, shift = std / own_std, (mean - own_mean) / own_std
    same = all(list(here[name]) == list(there[name]) for name in ("mean", "std"))

    def logits(image: Tensor) -> Tensor:
        found: Tensor = trained.model(image if same else image * scale + shift)
        return found

    return logits
