"""What a run's files say about how it went, as the rules of advice ask for it. The files may be somebody else's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plainloop.config.durations import Clock, clock_of
from plainloop.config.nodes import leaves
from plainloop.errors import BadConfig
from plainloop.loggers.jsonl import read_rows
from plainloop.loggers.numbers import score
from plainloop.run_dir.config_file import read_config, recorded_overrides
from plainloop.run_dir.status import read_summary
from plainloop.system import storage

CLEAR = 3.0  # standard errors
GAP = 0.05  # training above validation by less is usual, and no reason to do anything
NO_GAP = 0.01


@dataclass(frozen=True)
class Advice:
    """One thing to try next.

    Args:
        title: what is the matter, in a few words.
        evidence: the numbers that say so, and what follows.
        line: overrides to add to the command of the run.
        instead: what that command has instead of them; "" where they are new to it.
    """

    title: str
    evidence: str
    line: str
    instead: str = ""


@dataclass(frozen=True)
class Evidence:
    """
    Args:
        rows: of metrics.jsonl.
        config: checked and resolved.
        summary: {} where the run has not ended.
        environment: {} where it is not known.
        typed: the overrides of the command that started it.
    """

    rows: Sequence[Mapping[str, float]]
    config: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    typed: Sequence[str] = ()

    def series(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of each row that has the key; values that are no numbers are left out."""
        return [(int(row["step"]), row[key]) for row in self.rows if key in row and math.isfinite(row[key])]

    def last(self, key: str) -> float | None:
        found = self.series(key)
        return found[-1][1] if found else None

    def number(self, key: str) -> float | None:
        """The value of a key of the config where it is a number."""
        value = dict(leaves(self.config)).get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def has(self, key: str) -> bool:
        return key in dict(leaves(self.config))

    @cached_property
    def clock(self) -> Clock:
        return clock_of(self.config)

    @cached_property
    def monitor(self) -> str:
        """The metric that decides the best checkpoint, without its split: "top1"."""
        best = self.summary.get("best")
        metric = best.get("metric") if isinstance(best, Mapping) else None
        return metric.removeprefix("val/") if isinstance(metric, str) else "top1"

    @cached_property
    def parameters(self) -> float:
        found = self.summary.get("parameters")
        return found if isinstance(found, int | float) else math.inf

    @cached_property
    def finished(self) -> bool:
        """Whether it has come to its last step: what a run says before that is not its result."""
        return bool(self.summary) and self.summary.get("steps") == self.clock.total_steps

    @cached_property
    def fit(self) -> Fit | None:
        """Training and validation at the last evaluation; None where the run does not say both as shares."""
        train, val = self.last(f"train_eval/{self.monitor}"), self.last(f"val/{self.monitor}")
        if train is None or val is None or not (0 <= train <= 1 and 0 <= val <= 1) or "loss" in self.monitor:
            return None
        images = min(self.number("data.train_eval_samples") or 0, self.config["facts"]["num_train"])
        return Fit(self.monitor, train, val, max(1, int(images)), max(1, self.config["facts"]["num_val"]))

    @cached_property
    def augment(self) -> list[str]:
        """Names of the augmentations, in order."""
        return list(self.config["augment"])

    def target(self, name: str) -> str:
        """The function of an augmentation, without its module."""
        node = self.config["augment"][name]
        return str(node.get("_target_") if isinstance(node, Mapping) else "").rpartition(".")[2]


@dataclass(frozen=True)
class Fit:
    """The same metric on training images without augmentation, and on validation images."""

    metric: str
    train: float
    val: float
    num_train: int
    num_val: int

    @property
    def gap(self) -> float:
        return self.train - self.val

    @property
    def error(self) -> float:
        """The standard error of the gap, as of two shares of so many images.

        >>> round(Fit("top1", 0.9, 0.8, 2000, 10000).error, 4)
        0.0078
        """
        return math.sqrt(self.train * (1 - self.train) / self.num_train + self.val * (1 - self.val) / self.num_val)

    def __str__(self) -> str:
        return f"train_eval/{self.metric} {score(self.train)}, val/{self.metric} {score(self.val)}"


def read(folder: Path) -> Evidence:
    """Raises BadConfig and BadData for files that no run writes."""
    config = read_config(folder)
    for key, kind in _KINDS.items():
        value = dict(leaves(config)).get(key)
        if not isinstance(value, kind) or (isinstance(value, int) and value < 1):
            raise BadConfig(f"{folder / 'config.yaml'} cannot be used: {key} is {str(value)[:40]!r}, as in no run")
    return Evidence(
        read_rows(folder / "metrics.jsonl"),
        config,
        read_summary(folder) or {},
        storage.read_json(folder / "environment.json") or {},
        recorded_overrides(folder),
    )


# Of the config; the other keys may have any value, and a rule that needs one asks for a number.
_KINDS = {"facts.num_train": int, "facts.class_names": list, "facts.image_shape": list, "trainer.duration": str}
_KINDS |= {"trainer.lr_scaling.rule": str, "data.batch_size": int}
