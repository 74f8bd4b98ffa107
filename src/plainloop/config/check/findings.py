"""What a check looks at and what it finds. Where a key was given, and what was meant, is added by `explain.locate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.config.durations import Clock
from plainloop.config.nodes import PENDING
from plainloop.config.types import UNKNOWN


@dataclass(frozen=True)
class Finding:
    """One wrong thing. Every part but the first two may be empty.

    Args:
        instead: what to type; "" leaves the suggestion to `explain.locate`.
        value, annotation: a value and the type that it does not fit.
        unknown, keys: a dotted key that does not exist, and those that do.
        choices: values that exist where the given one does not.
    """

    key: str
    what: str
    got: str = ""
    expected: str = ""
    instead: str = ""
    value: Any = None
    annotation: Any = UNKNOWN
    unknown: str = ""
    keys: Sequence[str] = ()
    choices: Sequence[str] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caution:
    """A warning about something right, but slow or surprising."""

    text: str


NO_CLOCK = Clock(steps_per_epoch=0, total_steps=0)


@dataclass(frozen=True)
class CheckContext:
    """What is checked. `clock` and config["facts"] are there for the late rules only.

    Args:
        plugins: packages of the person's own, and the file that names them.
        is_typed: whether the command line gives a key.
        folder: where the run or the sweep will be written.
        began_on: the number of ranks on which a run that is resumed began.
    """

    config: dict[str, Any]
    plugins: tuple[str, ...] = ()
    plugins_file: Path = Path()
    is_typed: Callable[[str], bool] = lambda key: False
    folder: Path | None = None
    began_on: int | None = None
    ranks: int = 1
    clock: Clock = NO_CLOCK

    def get(self, key: str) -> Any:
        """The value at a dotted key; None when there is none, or when it is not known yet."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return None if node is PENDING else node


Findings = Iterator[Finding | Caution]
Rule = Callable[[CheckContext], Findings]


def run_rules(rules: Sequence[Rule], context: CheckContext) -> tuple[list[Finding], list[str]]:
    """What some rules find, and the texts of their warnings."""
    found = [finding for rule in rules for finding in rule(context)]
    return [f for f in found if isinstance(f, Finding)], [f.text for f in found if isinstance(f, Caution)]
