"""Checks each node of the config against what it may hold: a dataclass of settings, or the signature of a target."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from plainloop.config import targets
from plainloop.config.build import RESERVED
from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.groups import GROUPS, OPEN_GROUPS, Group
from plainloop.config.nodes import PENDING
from plainloop.config.settings import SETTINGS
from plainloop.config.types import Parameter, fields_of, misfit, signature_of, takes_bare_steps, type_name


def settings_match(context: CheckContext) -> Iterator[Finding]:
    """Unknown, missing and misfitting keys of the closed groups."""
    for path, kind in SETTINGS.items():
        node = context.config if path == "" else context.config.get(path)
        values = (name for name, group in GROUPS.items() if group.has_values)
        others = (*OPEN_GROUPS, *filter(None, SETTINGS), *values, "facts") if path == "" else ()
        yield from _settings(kind, node, path, others)


def open_groups_are_there(context: CheckContext) -> Iterator[Finding]:
    """Each open group is in the config, and every `_target_` in it is allowed. Imports nothing."""
    for group in OPEN_GROUPS:
        if group not in context.config:
            yield Finding(group, "is missing", expected="a group with a _target_", instead=f"{group}=...")
        elif isinstance(context.config[group], Mapping):
            yield from targets_are_allowed(context.config[group], group, context.plugins)


def targets_are_allowed(node: Mapping[str, Any], path: str, plugins: Sequence[str]) -> Iterator[Finding]:
    """Every `_target_` in a node. Imports nothing."""
    if "_target_" in node:
        try:
            targets.authorize(node["_target_"], plugins)
        except targets.Forbidden as error:
            yield _forbidden(_join(path, "_target_"), node["_target_"], error)
    for key, value in node.items():
        for name, inner in _nodes(value, _join(path, key)):
            yield from targets_are_allowed(inner, name, plugins)


def group_matches(name: str, context: CheckContext) -> Iterator[Finding]:
    """Compares an open group with the signatures of its targets; imports them."""
    group, node = GROUPS[name], context.config.get(name)
    if not isinstance(node, Mapping):
        yield Finding(name, "wrong type", type_name(node), "a mapping with a _target_")
        return
    nodes = {f"{name}.{inner}": value for inner, value in node.items()} if group.named else {name: node}
    for path, inner in nodes.items():
        if not isinstance(inner, Mapping) or "_target_" not in inner:
            expected = "a mapping with a _target_, as {_target_: package.name, ...}"
            instead = f"~{path}, or the option that has it too: {name}=[...]" if group.several else ""
            yield Finding(path, "names nothing to build", type_name(inner), expected, instead=instead)
        else:
            yield from _matches(inner, path, context, group)


def _settings(kind: type, node: Any, path: str, others: Sequence[str] = ()) -> Iterator[Finding]:
    fields = fields_of(kind)
    if not isinstance(node, Mapping):
        yield Finding(path, "wrong type", type_name(node), f"its keys: {', '.join(fields)}")
        return
    for key in node:
        if key not in fields and key not in others:
            yield _unknown(path, key, [*fields, *others])
    for name, field in fields.items():
        key = _join(path, name)
        if name not in node:
            yield Finding(key, "missing", expected="a value", instead=f"+{key}=...")
        elif is_dataclass(field.annotation):
            yield from _settings(field.annotation, node[name], key)  # type: ignore[arg-type]
        else:
            yield from value_fits(field, node[name], key)


def _matches(node: Mapping[str, Any], path: str, context: CheckContext, group: Group) -> Iterator[Finding]:
    """A node, and all nodes inside it, against the signatures of their targets."""
    key, text = _join(path, "_target_"), node["_target_"]
    try:
        target = targets.locate(text, context.plugins)
    except (ValueError, ImportError) as error:
        yield _forbidden(key, text, error) if isinstance(error, targets.Forbidden) else Finding(key, str(error))
        return
    signature = signature_of(target)
    names = list(signature.parameters)
    partial = bool(node.get("_partial_", False))
    by_run = {*(names[: group.num_given] if partial else ()), *group.given}
    if findings := list(_bound_or_called(target, partial, group.num_given, path)):
        yield from findings  # which arguments are the config's is not known then
        return
    for name, value in node.items():
        parameter = signature.parameters.get(name)
        if name in RESERVED:
            continue
        if (parameter is None and not signature.open) or name in by_run:
            yield _unknown(
                path, name, [n for n in names if n not in by_run], f": {_dotted(target)} has no such argument"
            )
        elif parameter is not None and not any("_target_" in inner for _, inner in _nodes(value, "")):
            yield from value_fits(parameter, value, _join(path, name))
    required = [p.name for p in signature.parameters.values() if p.required]
    if partial and group.num_given == 0:
        required = required[signature.num_positional :]
    there = {*node, *by_run, *names[: len(node.get("_args_", ()))]}
    for name in (name for name in required if name not in there):
        key = _join(path, name)
        yield Finding(key, "missing", expected=f"a value: {_dotted(target)} needs it", instead=f"+{key}=...")
    for name, value in node.items():
        for inner_path, inner in _nodes(value, _join(path, name)):
            if "_target_" in inner:
                yield from _matches(inner, inner_path, context, Group())


def value_fits(parameter: Parameter, value: Any, key: str) -> Iterator[Finding]:
    if _pending_inside(value):
        return
    expected = misfit(value, parameter.annotation, bare_steps=takes_bare_steps(parameter.name))
    if expected is not None:
        each = enumerate(value, 1) if isinstance(value, list) else ()
        wrong = [number for number, item in each if misfit([item], parameter.annotation) is not None]
        where = f" in entry {wrong[0]}" if 0 < len(wrong) < len(value) else ""
        words = f"wrong type or value{where}", type_name(value), expected
        yield Finding(key, *words, value=value, annotation=parameter.annotation)


def _unknown(path: str, key: str, names: Sequence[str], why: str = "") -> Finding:
    full = _join(path, key)
    return Finding(full, "unknown key" + why, unknown=full, keys=[_join(path, name) for name in names])


def _forbidden(key: str, target: Any, error: Exception) -> Finding:
    own = isinstance(target, str) and "." in target and not targets.is_no_plugin(target)
    allow = f"if it is your own package, allow it on the command line: plugins=[{str(target).partition('.')[0]}]"
    expected = "a class or function that builds a part of a run"
    return Finding(key, f"is not allowed: {error}", expected=expected, notes=(allow,) if own else ())


def _bound_or_called(target: Any, partial: bool, num_given: int, path: str) -> Iterator[Finding]:
    """What gets arguments at run time is bound, not called: optimizers, and functions of a step or a batch."""
    wants = num_given > 0 and (path == "optimizer" or inspect.isfunction(target))
    if num_given > 0 and wants != partial:
        key = _join(path, "_partial_")
        what = "must be true: its first argument comes from the run" if wants else "must be false: it is built whole"
        yield Finding(key, what, instead=f"++{key}={str(wants).lower()}")


def _nodes(value: Any, path: str) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        return [(path, value)]
    if isinstance(value, list):
        return [pair for i, inner in enumerate(value) for pair in _nodes(inner, f"{path}.{i}")]
    return []


def _pending_inside(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_pending_inside(inner) for inner in value.values())
    return value is PENDING or (isinstance(value, list) and any(map(_pending_inside, value)))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _dotted(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"
