"""Holds a node of the config against what may be there: a dataclass of settings, or the signature of its `_target_`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from plainloop.config import targets
from plainloop.config.build import RESERVED
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.other_codes import lookup
from plainloop.config.explain.problems import Problem, listing
from plainloop.config.explain.suggest import nearest, suggest_value
from plainloop.config.resolve import PENDING
from plainloop.config.settings import annotation_of
from plainloop.config.types import (
    UNKNOWN,
    Parameter,
    fields_of,
    misfit,
    signature_of,
    takes_bare_steps,
    type_name,
)
from plainloop.system.secrets import looks_secret

OPEN_GROUPS = ("task", "data", "model", "augment", "optimizer", "scheduler", "logger")
NAMED_THINGS = ("augment", "logger")  # groups that are a dictionary of nodes

# Arguments that the run gives, by position first or by name.
_GIVEN = {"optimizer": 1, "scheduler": 1, "augment": 2}
_SUPPLIED = {"scheduler": ("base_lr",), "data": ("sample_transforms",)}


def settings_problems(kind: type, node: Any, path: str, origin: Origin, *, also: Sequence[str] = ()) -> list[Problem]:
    """Unknown, missing and misfitting keys of a closed group; `also` may be there and is judged elsewhere."""
    if not isinstance(node, Mapping):
        return [Problem(path, "wrong type", type_name(node), "a mapping {key: value}", origin.given_by(path))]
    fields = fields_of(kind)
    problems = [_unknown(path, key, [*fields, *also], origin) for key in node if key not in fields and key not in also]
    for name, field in fields.items():
        key = _join(path, name)
        if name not in node:
            problems.append(_missing(key, "a value", origin))
        elif is_dataclass(field.annotation):
            problems += settings_problems(field.annotation, node[name], key, origin)  # type: ignore[arg-type]
        else:
            problems += _fit(field, node[name], key, origin)
    return problems


def target_problems(node: Mapping[str, Any], path: str, origin: Origin, plugins: Sequence[str]) -> list[Problem]:
    """The allowlist alone, on every `_target_` below a node; imports nothing."""
    problems = []
    if "_target_" in node:
        key = _join(path, "_target_")
        try:
            targets.authorize(node["_target_"], plugins)
        except targets.Forbidden as error:
            problems.append(_forbidden(key, node["_target_"], error, origin))
        for extra in node:
            if extra.startswith("_") and extra.endswith("_") and extra not in RESERVED:
                problems.append(_unknown(path, extra, RESERVED, origin))
    for key, value in node.items():
        for name, inner in _nodes(value, _join(path, key)):
            problems += target_problems(inner, name, origin, plugins)
    return problems


def signature_problems(
    node: Mapping[str, Any],
    path: str,
    origin: Origin,
    plugins: Sequence[str],
    *,
    given: int = 0,
    supplied: Sequence[str] = (),
) -> list[Problem]:
    """A node and all nodes inside it against the signatures of their targets; imports them.

    Args:
        given: arguments that the run gives by position when the node is partial.
        supplied: arguments that the run gives by name.
    """
    try:
        target = targets.locate(node["_target_"], plugins)
    except targets.Forbidden as error:
        return [_forbidden(_join(path, "_target_"), node["_target_"], error, origin)]
    except (ValueError, ImportError) as error:
        return [_not_there(_join(path, "_target_"), node["_target_"], error, origin)]
    signature = signature_of(target)
    names = list(signature.parameters)
    partial = bool(node.get("_partial_", False))
    by_run = {*(names[:given] if partial else ()), *supplied}
    problems = _partial_problem(target, partial, given, path, origin)
    for key, value in node.items():
        if key in RESERVED:
            continue
        parameter = signature.parameters.get(key)
        if (parameter is None and not signature.open) or key in by_run:
            problems.append(_unknown(path, key, [n for n in names if n not in by_run], origin, target))
        elif parameter is not None and not _holds_nodes(value):
            problems += _fit(parameter, value, _join(path, key), origin)
    required = [p.name for p in signature.parameters.values() if p.required]
    if partial and given == 0:
        required = required[signature.num_positional :]
    taken = names[: len(node.get("_args_", ()))]
    problems += [
        _missing(_join(path, name), f"a value: {_dotted(target)} needs it", origin)
        for name in required
        if name not in node and name not in by_run and name not in taken
    ]
    for key, value in node.items():
        for name, inner in _nodes(value, _join(path, key)):
            if "_target_" in inner:
                problems += signature_problems(inner, name, origin, plugins)
    return problems


def group_problems(
    group: str, node: Any, origin: Origin, plugins: Sequence[str], *, only: Callable[[str], bool] | None = None
) -> list[Problem]:
    """An open group: one node, or a dictionary of them. `only` picks targets by their text."""
    if not isinstance(node, Mapping):
        return [Problem(group, "wrong type", type_name(node), "a mapping with a _target_", origin.given_by(group))]
    nodes = {f"{group}.{name}": inner for name, inner in node.items()} if group in NAMED_THINGS else {group: node}
    problems = []
    for path, inner in nodes.items():
        if not isinstance(inner, Mapping) or "_target_" not in inner:
            expected = "a mapping with a _target_, as {_target_: package.name, ...}"
            problems.append(Problem(path, "names nothing to build", type_name(inner), expected, origin.given_by(path)))
        elif only is None or only(str(inner["_target_"])):
            problems += signature_problems(
                inner, path, origin, plugins, given=_GIVEN.get(group, 0), supplied=_SUPPLIED.get(group, ())
            )
    return problems


def _fit(parameter: Parameter, value: Any, key: str, origin: Origin) -> list[Problem]:
    if value is PENDING or _pending_inside(value):
        return []
    annotation = parameter.annotation
    if annotation is UNKNOWN:
        annotation = _type_of_written(origin, key)
    expected = misfit(value, annotation, bare_steps=takes_bare_steps(parameter.name))
    if expected is None or _follows_a_wrong_one(value, key, origin):
        return []
    instead = _in_its_place(value, annotation, key, origin)
    return [Problem(key, "wrong type or value", type_name(value), expected, _given(origin, key), instead=instead)]


def _follows_a_wrong_one(value: Any, key: str, origin: Origin) -> bool:
    """Whether the value is that of another key, which is told: one mistake is one problem."""
    place = None if origin.override_of(key) else origin.written(key)
    if place is None or place.value is None:
        return False
    if origin.saved is not None:
        return bool(place.value != value)  # a saved config has values where ours has interpolations
    source = re.fullmatch(r"\$\{([\w.]+)\}", str(place.value))
    kind = annotation_of(source[1]) if source else None
    return kind is not None and misfit(value, kind) is not None


def _in_its_place(value: Any, annotation: Any, key: str, origin: Origin) -> str:
    """What was meant, else what our YAML has there."""
    found = suggest_value(value, annotation)
    if isinstance(value, int) and found.endswith("ep"):
        return f"{key}={found}, or {key}={found[:-2]}st"
    if found or not origin.override_of(key):
        return f"{key}={found}" if found else ""
    place = origin.written(key)
    if place is None or place.text in ("", "???") or "${" in place.text:
        return f"leave {key} out"
    return f"{key}={place.text.replace(', ', ',')}"


def _missing(key: str, expected: str, origin: Origin) -> Problem:
    text = origin.override_of(key)
    instead = f"leave {text} out" if text.startswith("~") else f"+{key}=..."
    return Problem(key, "missing", expected=expected, given_by=_given(origin, key), instead=instead)


def _type_of_written(origin: Origin, key: str) -> Any:
    """What an argument without annotation takes: the type of the value in our YAML, if an override replaced that."""
    place = origin.written(key) if origin.override_of(key) else None
    if place is None or place.value is None:
        return UNKNOWN
    kind = type(place.value)
    if kind is str and place.value.startswith("${"):
        return UNKNOWN
    return (float | None) if kind in (int, float) else (kind | None)


def _unknown(path: str, key: str, names: Sequence[str], origin: Origin, target: Any = None) -> Problem:
    full = _join(path, key)
    near = [] if looks_secret(key) else nearest(key, names)
    foreign = lookup(full) if not near else None
    text = origin.override_of(full)
    value = text.partition("=")[2] if text.lstrip("+").startswith(f"{full}=") else ""
    instead = foreign.instead(value) if foreign else f"leave {full} out" if text else ""
    if near and value:
        instead = f"{'' if origin.written(_join(path, near[0])) else '+'}{_join(path, near[0])}={value}"
    return Problem(
        full,
        (f"here that is `{foreign.key}`" if foreign and foreign.key else "unknown key")
        + (f": {_dotted(target)} has no such argument" if target is not None else ""),
        given_by=_given(origin, full),
        meant=_with_place(_join(path, near[0]), origin) if near else "",
        instead=instead,
        notes=(f"valid keys{' of ' + path if path else ''}: {listing(names)}",) if names else (),
    )


def _with_place(key: str, origin: Origin) -> str:
    place = origin.written(key)
    return f"{key}   ({place})" if place else key


def _given(origin: Origin, key: str) -> str:
    return origin.given_by(key)


def _forbidden(key: str, target: Any, error: Exception, origin: Origin) -> Problem:
    notes: tuple[str, ...] = ()
    if isinstance(target, str) and "." in target and not targets.is_no_plugin(target):
        notes = (f"if it is your own package, allow it on the command line: plugins=[{target.split('.')[0]}]",)
    place = origin.written(key) if origin.override_of(key) else None
    return Problem(
        key,
        f"is not allowed: {error}",
        expected="a class or function that builds a part of a run",
        given_by=origin.given_by(key),
        instead=f"{key}={place.value}" if place and place.value else f"leave {key} out",
        notes=notes,
    )


def _not_there(key: str, target: str, error: Exception, origin: Origin) -> Problem:
    module = target.rpartition(".")[0]
    try:
        near = nearest(target, targets.public_names(module))
    except (ValueError, ImportError):
        near = []
    return Problem(key, str(error).splitlines()[0], given_by=origin.given_by(key), meant=near[0] if near else "")


def _partial_problem(target: Any, partial: bool, given: int, path: str, origin: Origin) -> list[Problem]:
    """What gets arguments at run time is bound, not called: optimizers, and functions of a step or a batch."""
    wants = given > 0 and (path == "optimizer" or inspect.isfunction(target))
    if given == 0 or wants == partial:
        return []
    key = _join(path, "_partial_")
    what = "must be true: its first argument comes from the run" if wants else "must be false: it is built whole"
    return [Problem(key, what, given_by=origin.given_by(key), instead=f"++{key}={str(wants).lower()}")]


def _nodes(value: Any, path: str) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        return [(path, value)]
    if isinstance(value, list):
        return [pair for i, inner in enumerate(value) for pair in _nodes(inner, f"{path}.{i}")]
    return []


def _holds_nodes(value: Any) -> bool:
    return any("_target_" in inner for _, inner in _nodes(value, ""))


def _pending_inside(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_pending_inside(inner) for inner in value.values())
    return value is PENDING or (isinstance(value, list) and any(_pending_inside(inner) for inner in value))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _dotted(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"
