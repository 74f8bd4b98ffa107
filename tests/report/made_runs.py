"""Runs that never were, with the measurements that a rule of advice looks at."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plainloop.config.durations import clock_of
from plainloop.report.advice.evidence import Evidence
from tests.harness.commands import passed


@functools.cache
def config_of(*typed: str) -> dict[str, Any]:
    return passed(*typed).config


def curve(first: float, last: float, num: int = 12) -> list[float]:
    """Falls evenly."""
    return [first + (last - first) * i / (num - 1) for i in range(num)]


class Made:
    """A made-up run: its command, and what it has measured."""

    def __init__(
        self,
        *typed: str,
        train: float = 0.9,
        val: float = 0.88,
        loss: Sequence[float] = (2.3, 1.5, 1.2, 1.0, 0.9, 0.8, 0.75, 0.7, 0.68, 0.67, 0.66, 0.65),
        val_loss: Sequence[float] = (),
        accuracy: Sequence[float] = (),
        best: int | None = None,
        parameters: float = 17e3,
        metric: str = "top1",
        **more: float,
    ) -> None:
        self.typed, self.train, self.val, self.parameters, self.more = typed, train, val, parameters, more
        self.loss, self.val_loss = list(loss), list(val_loss) or [1.0] * len(loss)
        self.metric = metric
        self.accuracy, self.best = list(accuracy) or [val] * len(loss), best

    def evidence(self, photos: Path) -> Evidence:
        typed = tuple(text.format(photos=photos) for text in self.typed)
        config, num = config_of(*typed), len(self.loss)
        total = clock_of(config).total_steps
        steps = [round(total * (i + 1) / num) for i in range(num)]
        cores = self.more.get("cores", 2)
        rows = [
            {
                "step": step,
                "train/loss": self.loss[i],
                "val/loss": self.val_loss[i],
                f"val/{self.metric}": self.accuracy[i],
                f"train_eval/{self.metric}": self.train,
                "time/step_s": self.more.get("step_s", 0.1),
                **({"time/memory_gb": self.more["memory_gb"]} if "memory_gb" in self.more else {}),
                "time/data_s": self.more.get("data_s", 0.001),
            }
            for i, step in enumerate(steps)
        ]
        finite = [value for value in self.accuracy if math.isfinite(value)]
        best = total if self.best is None else steps[self.best]
        summary = {
            "best": {"metric": f"val/{self.metric}", "value": max(finite, default=None), "step": best},
            "steps": total,
            "parameters": self.parameters,
        }
        return Evidence(rows, config, summary, {"cpu": {"cores": cores}, "memory_gb": [80.0]}, typed)
