"""What rules judge and what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.config.compose.origin import Origin
from plainloop.config.durations import Clock
from plainloop.config.explain.problems import Problem
from plainloop.config.resolve import PENDING


@dataclass(frozen=True)
class Warned:
    """Right, but slow or surprising."""

    text: str


@dataclass(frozen=True)
class Case:
    """What rules judge. `clock` and config["facts"] are there for the late ones only."""

    config: dict[str, Any]
    origin: Origin
    ranks: int
    folder: Path | None = None  # where the run or the sweep will be written
    clock: Clock | None = None

    def get(self, key: str) -> Any:
        """The value at a dotted key; None when there is none, or when it is not known yet."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return None if node is PENDING else node

    def problem(self, key: str, what: str, **more: Any) -> Problem:
        return Problem(key, what, given_by=self.origin.given_by(key), **more)


Finding = Problem | Warned
Rule = Callable[[Case], Iterator[Finding]]


def judge(rules: tuple[Rule, ...], case: Case) -> tuple[list[Problem], list[str]]:
    """All findings of some rules: problems, and the texts of warnings."""
    found = [finding for rule in rules for finding in rule(case)]
    return [f for f in found if isinstance(f, Problem)], [f.text for f in found if isinstance(f, Warned)]
