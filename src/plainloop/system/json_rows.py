"""Objects of JSON that anybody may have written: parsed, and their values held against the kinds that a run writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

LARGEST = 2**53  # of whole numbers; up to here each is exact in JSON

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_NAMES |= {dict: "an object", list: "a list"}


def parse_object(data: bytes) -> dict[str, Any] | None:
    """
    >>> parse_object(b'{"step": 3}'), parse_object(b"[3]"), parse_object(b'{"a": ' + b"[" * 100_000)
    ({'step': 3}, None, None)
    """
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def wrong_value(row: Mapping[str, Any], kinds: Mapping[str, Any], required: tuple[str, ...] = ()) -> str:
    """What is wrong with the first value that is not of its kind; "" for none. Keys without a kind are not looked at.

    Args:
        kinds: by key a type, a union of types, or a Literal of texts.

    >>> wrong_value({"pid": "abc"}, {"pid": int}), wrong_value({"pid": 1, "host": 2}, {"pid": int})
    ("pid is 'abc', expected a whole number", '')
    >>> wrong_value({}, {"step": int}, required=("step",)), wrong_value({"step": 1e400}, {"step": int | float})
    ('step is missing', 'step is inf, expected a whole number or a number')
    """
    for key in required:
        if key not in row:
            return f"{key} is missing"
    for key, kind in kinds.items():
        if key in row and not _is_kind(row[key], kind):
            value = row[key]
            shown = _NAMES[type(value)] if isinstance(value, dict | list) else repr(value)[:40]
            return f"{key} is {shown}, expected {_name(kind)}"
    return ""


def _is_kind(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, UnionType):
        return any(_is_kind(value, one) for one in get_args(kind))
    if kind in (int, float) and type(value) is int:
        return abs(value) <= LARGEST
    return type(value) is kind and (kind is not float or math.isfinite(value))


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return " or ".join(_NAMES[one] for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,)))
