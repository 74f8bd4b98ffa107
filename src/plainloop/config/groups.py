"""The groups of conf/, one row each: what their nodes are, and what the run adds when it builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Group:
    """
    Args:
        kind: "open" names what is built by `_target_`; the keys of "settings" are a dataclass's; a file of "recipe"
            sets keys of other groups and has none of its own.
        named: its node is a dict of named things, each with a `_target_`.
        several: several options can be chosen at once: logger=[csv,wandb].
        has_values: a recipe's file may set keys of the group's own, which nothing but `${...}` reads: trick.size.
        num_given: arguments that the run gives by position, such as an optimizer's parameter groups.
        given: arguments that the run gives by name.
    """

    kind: Literal["open", "settings", "recipe"] = "open"
    named: bool = False
    several: bool = False
    has_values: bool = False
    num_given: int = 0
    given: tuple[str, ...] = ()


GROUPS = {
    "task": Group(),
    "data": Group(given=("sample_transforms",)),
    "model": Group(),
    "augment": Group(named=True, several=True, num_given=2),
    "optimizer": Group(num_given=1),
    "scheduler": Group(num_given=1, given=("base_lr",)),
    "logger": Group(named=True, several=True),
    "trainer": Group(kind="settings"),
    "checkpoint": Group(kind="settings"),
    "experiment": Group(kind="recipe", several=True),
    "debug": Group(kind="recipe", several=True),
    "search": Group(kind="recipe"),
    "trick": Group(kind="recipe", several=True, has_values=True),
}
OPEN_GROUPS = tuple(name for name, group in GROUPS.items() if group.kind == "open")
SEVERAL = tuple(name for name, group in GROUPS.items() if group.several)
