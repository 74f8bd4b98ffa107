"""Durations carry their unit in YAML (`5ep`, `1000st`, `10%`) and are optimizer steps everywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMS = "5ep (epochs), 1000st (optimizer steps) or 10% (of the run, 100% at most)"

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ep|st|%)\s*")


def parse(text: str) -> tuple[float, str]:
    """Reads one duration: amount and unit. Raises ValueError for anything else, half steps included.

    >>> parse("5ep"), parse("1000st"), parse("2.5%")
    ((5.0, 'ep'), (1000.0, 'st'), (2.5, '%'))
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write {FORMS}")
    amount, unit = float(match[1]), match[2]
    if unit == "%" and amount > 100:
        raise ValueError(f"{text!r} is more than the whole run; write 100% at most")
    if unit == "st" and not amount.is_integer():
        raise ValueError(f"{text!r}: a step has no parts; write a whole number of steps, or epochs")
    return amount, unit


@dataclass(frozen=True)
class Clock:
    steps_per_epoch: int
    total_steps: int

    def steps(self, text: str | int) -> int:
        """Steps of a duration, rounded to the nearest; an int is steps already.

        >>> Clock(100, 27000).steps("213ep"), Clock(100, 27000).steps("10%"), Clock(100, 27000).steps(7)
        (21300, 2700, 7)
        """
        if isinstance(text, int):
            return text
        amount, unit = parse(text)
        return round(amount * {"ep": self.steps_per_epoch, "st": 1, "%": self.total_steps / 100}[unit])

    def epochs(self, step: int) -> float:
        return step / self.steps_per_epoch


def train_batch_size(config: Mapping[str, Any]) -> int:
    """Samples per optimizer step over all ranks: the training loader's, which may override the shared one."""
    own = (config["data"].get("train") or {}).get("batch_size")
    return config["data"]["batch_size"] if own is None else own


def clock_of(config: Mapping[str, Any]) -> Clock:
    """The clock of a checked config: one epoch is num_train // batch_size optimizer steps.

    One at least: the check refuses to train on fewer images than a batch has, but they can be evaluated.
    """
    steps_per_epoch = max(1, config["facts"]["num_train"] // train_batch_size(config))
    return Clock(steps_per_epoch, Clock(steps_per_epoch, 0).steps(config["trainer"]["duration"]))
