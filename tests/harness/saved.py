"""States as runs save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from plainloop.run_dir.checkpoints import Checkpoints


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def state(step: int) -> dict[str, Any]:
    """Every kind of value that a run saves, about 10 kB."""
    weight = torch.arange(2000, dtype=torch.float32).reshape(40, 50) * step
    return {
        "step": step,
        "model": {"weight": weight, "tied": weight, "count": torch.tensor(step), "half": weight[0].bfloat16()},
        "optimizer": {"state": {0: {"exp_avg": weight[:3] / 3}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "best": None,
        "name": "toy",
        "flags": [True, b"bytes", 1.5, float("inf")],
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def best_of(checkpoints: Checkpoints) -> int | None:
    """The step that is marked best, as the manifests have it."""
    return next((entry.step for entry in checkpoints._entries() if entry.ours and entry.row["best"]), None)


def two_saved(folder: Path) -> Checkpoints:
    """A folder with the checkpoints 1 and 2."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(state(1), step=1, best=True, metric="val/top1", value=0.5)
    checkpoints.save(state(2), step=2)
    return checkpoints
