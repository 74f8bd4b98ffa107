"""Durations carry their unit in YAML (`5ep`, `1000st`, `10%`) and are optimizer steps everywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FORMS = "5ep (epochs), 1000st (optimizer steps) or 10% (of the run)"

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ep|st|%)\s*")


@dataclass(frozen=True)
class Duration:
    amount: float
    unit: Literal["ep", "st", "%"]


def parse(text: str) -> Duration:
    """Reads one duration.

    >>> parse("5ep"), parse("1000st"), parse("2.5%")
    (Duration(amount=5.0, unit='ep'), Duration(amount=1000.0, unit='st'), Duration(amount=2.5, unit='%'))

    Raises ValueError for anything else, half steps included.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write {FORMS}")
    amount, unit = float(match[1]), match[2]
    if unit == "st" and not amount.is_integer():
        raise ValueError(f"{text!r}: a step has no parts; write a whole number of steps, or epochs")
    return Duration(amount, unit)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Clock:
    """Turns durations into optimizer steps, and steps into epochs, for one run."""

    steps_per_epoch: int
    total_steps: int

    def steps(self, text: str | int) -> int:
        """Steps of a duration, rounded to the nearest; an int is steps already.

        >>> Clock(100, 27000).steps("213ep"), Clock(100, 27000).steps("10%"), Clock(100, 27000).steps(7)
        (21300, 2700, 7)
        """
        if isinstance(text, int):
            return text
        duration = parse(text)
        per_unit = {"ep": self.steps_per_epoch, "st": 1.0, "%": self.total_steps / 100}[duration.unit]
        return round(duration.amount * per_unit)

    def epochs(self, step: int) -> float:
        return step / self.steps_per_epoch


def train_batch_size(config: Mapping[str, Any]) -> int:
    """Samples per optimizer step over all ranks: the training loader's, which may override the shared one."""
    data = config["data"]
    own = (data.get("train") or {}).get("batch_size")
    return data["batch_size"] if own is None else own


def clock_of(config: Mapping[str, Any]) -> Clock:
    """The clock of a resolved config: one epoch is num_train // batch_size optimizer steps.

    Raises ValueError when the batch is larger than the data, or the run is given in percent of itself.
    """
    num_train, batch_size = config["facts"]["num_train"], train_batch_size(config)
    steps_per_epoch = num_train // batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"data.batch_size={batch_size} is larger than the training set of {num_train} samples")
    duration = config["trainer"]["duration"]
    if isinstance(duration, str) and parse(duration).unit == "%":
        raise ValueError(
            f"trainer.duration={duration}: a run is no share of itself; write epochs (90ep) or steps (1000st)"
        )
    return Clock(steps_per_epoch, Clock(steps_per_epoch, 0).steps(duration))
