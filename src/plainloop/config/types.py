"""The signature is the schema: what a target takes, and whether a value of the config fits."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from plainloop.config.durations import FORMS, parse
from plainloop.contracts import Steps

UNKNOWN: Any = inspect.Parameter.empty  # the annotation of what says nothing of its type


@dataclass(frozen=True)
class Parameter:
    name: str
    annotation: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    parameters: dict[str, Parameter]  # by keyword
    open: bool  # takes any other keyword as well
    num_positional: int  # required ones that come first: what is given at run time, not in YAML


@cache
def signature_of(target: Callable[..., Any]) -> Signature:
    """Parameters that a config can give by name, with their resolved annotations."""
    function = target.__init__ if inspect.isclass(target) else target
    found = inspect.signature(target)
    hints = _hints(function)
    parameters, is_open, num_positional = {}, False, 0
    for parameter in found.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            required = parameter.default is parameter.empty
            annotation = hints.get(parameter.name, UNKNOWN)
            parameters[parameter.name] = Parameter(parameter.name, annotation, required)
            num_positional += required and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    return Signature(parameters, is_open, num_positional)


@cache
def fields_of(settings: type) -> dict[str, Parameter]:
    """The same for a dataclass of settings: every field is required."""
    hints = typing.get_type_hints(settings)
    return {field.name: Parameter(field.name, hints[field.name], required=True) for field in fields(settings)}


def misfit(value: Any, annotation: Any, *, bare_steps: bool = False) -> str | None:
    """What was expected where `value` does not fit, None where it does.

    Of a union its plain members count; what has none accepts anything. `bare_steps` lets a bare number be steps.

    >>> misfit("abc", float), misfit(1, float), misfit(True, int), misfit(3, Steps), misfit("3ep", Steps)
    ('a number', None, 'a whole number', 'a duration with its unit: 3ep or 3st', None)
    """
    if value is None and annotation is None:
        return None
    members = [member for member in members_of(annotation) if _is_plain(member)]
    expected = [_misfit_member(value, member, bare_steps) for member in members]
    return None if None in expected or not members else " or ".join(dict.fromkeys(filter(None, expected)))


def counts_steps(annotation: Any) -> bool:
    """Whether `Steps` occurs in an annotation: Steps, Sequence[Steps], Steps | None, ..."""
    return annotation is Steps or any(counts_steps(argument) for argument in get_args(annotation))


def takes_bare_steps(name: str) -> bool:
    """Whether a bare number can only mean steps there: the name says so, or nobody counts it in epochs."""
    return name == "log_every" or "steps" in name.split("_")


def type_name(value: Any) -> str:
    return "null" if value is None else f"{value!r} ({type(value).__name__})"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Each annotation for itself: one that names what its module did not import hides no other."""
    hints: dict[str, Any] = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        try:
            hints |= typing.get_type_hints(alone, getattr(function, "__globals__", None))
        except (NameError, TypeError, AttributeError):
            hints[name] = UNKNOWN if isinstance(hint, str) else hint
    return hints


def members_of(annotation: Any) -> list[Any]:
    """The members of a union, of unions inside it too; any other annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [leaf for member in get_args(annotation) for leaf in members_of(member)]
    return [annotation]


# Type -> what a value of YAML is then, and how a message says it.
_SCALARS: dict[Any, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    Path: (str, "a path"),
    type(None): (type(None), "null"),
}


def _is_plain(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if annotation in _SCALARS or annotation in (list, tuple, dict, Steps) or is_dataclass(annotation):
        return True
    return origin is Literal or (inspect.isclass(origin) and issubclass(origin, (Sequence, Mapping)))


def _misfit_member(value: Any, annotation: Any, bare_steps: bool) -> str | None:
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if annotation is Steps:
        return _misfit_steps(value, bare_steps)
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
        return None if fits else "one of " + ", ".join(map(str, arguments))
    if origin in _SCALARS:
        accepted, expected = _SCALARS[origin]
        return None if isinstance(value, accepted) and (origin is bool or not isinstance(value, bool)) else expected
    if is_dataclass(annotation) or issubclass(origin, Mapping):
        if not isinstance(value, dict):
            return "a mapping {key: value}"
        inner = _first_misfit(value.values(), arguments[1], bare_steps) if len(arguments) == 2 else None
        return f"a mapping whose values are each {inner}" if inner else None
    if not isinstance(value, list):
        return "a list [a,b]"
    if origin is tuple and arguments and Ellipsis not in arguments:
        if len(value) != len(arguments):
            return f"a list of {len(arguments)}"
        inner = next((m for item, kind in zip(value, arguments, strict=True) if (m := misfit(item, kind))), None)
    else:
        inner = _first_misfit(value, arguments[0], bare_steps) if arguments else None
    return f"a list of which each is {inner}" if inner else None


def _first_misfit(values: Iterable[Any], annotation: Any, bare_steps: bool) -> str | None:
    return next((m for value in values if (m := misfit(value, annotation, bare_steps=bare_steps))), None)


def _misfit_steps(value: Any, bare_steps: bool) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None if bare_steps or value == 0 else f"a duration with its unit: {abs(value)}ep or {abs(value)}st"
    try:
        parse(value)
    except ValueError:
        return f"a duration: {FORMS}"
    return None
