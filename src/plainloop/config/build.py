"""From a checked node of the config to the object that it names."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeVar

from plainloop.config.durations import Clock
from plainloop.config.targets import locate
from plainloop.config.types import counts_steps, fields_of, signature_of

# What a node may hold beside its target's own arguments.
RESERVED = ("_target_", "_partial_", "_args_")

T = TypeVar("T")


def build(node: Mapping[str, Any], clock: Clock, *, plugins: Sequence[str] = (), **supplied: Any) -> Any:
    """Calls the `_target_` of a node with its other keys, nested nodes built first; `_partial_: true` binds them only.

    Args:
        clock: turns what the target annotates as `Steps` from 5ep, 1000st or 10% into a number of steps.
        supplied: given by name where the signature has that name and the node does not give it.
    """
    target = locate(node["_target_"], plugins)
    signature = signature_of(target)
    given = {key: _part(value, clock, plugins) for key, value in arguments_of(node).items()}
    for name, value in given.items():
        parameter = signature.parameters.get(name)
        if parameter is not None and counts_steps(parameter.annotation):
            given[name] = _in_steps(value, clock)
    given |= {name: value for name, value in supplied.items() if name in signature.parameters and name not in given}
    positional = [_part(value, clock, plugins) for value in node.get("_args_", ())]
    make = functools.partial(target, *positional, **given)
    return make if node.get("_partial_", False) else make()


def arguments_of(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in RESERVED}


def settings(kind: type[T], node: Mapping[str, Any], clock: Clock) -> T:
    """Fills a dataclass of `plainloop.config.settings` from its checked node, durations as steps."""
    values: dict[str, Any] = {}
    for name, field in fields_of(kind).items():  # type: ignore[arg-type]
        value = node[name]
        if is_dataclass(field.annotation):
            value = settings(field.annotation, value, clock)  # type: ignore[arg-type]
        elif counts_steps(field.annotation) and value not in (None, "never"):
            value = max(1, _in_steps(value, clock))  # 10% of a short run is at least one step
        values[name] = value
    return kind(**values)


# Facts by data config: the jobs of a sweep look into each folder once.
FactsCache = dict[str, dict[str, Any]]


def facts_of(data: Mapping[str, Any], *, plugins: Sequence[str], cache: FactsCache | None = None) -> dict[str, Any]:
    """Plain facts of a resolved data node, with `num_classes`. Raises what the source's `facts` raises."""
    key, cache = json.dumps(data, sort_keys=True, default=str), {} if cache is None else cache
    if key not in cache:
        source: Any = locate(data["_target_"], plugins)
        found = source.facts(**arguments_of(data))
        plain = dataclasses.asdict(found) | {"num_classes": found.num_classes}
        cache[key] = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    return cache[key]


def _part(value: Any, clock: Clock, plugins: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, clock, plugins=plugins)
        return {key: _part(inner, clock, plugins) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_part(inner, clock, plugins) for inner in value]
    return value


def _in_steps(value: Any, clock: Clock) -> Any:
    if isinstance(value, list | tuple):
        return [_in_steps(inner, clock) for inner in value]
    return clock.steps(value) if isinstance(value, str | int) else value
