"""Objects of JSON that anybody may have written: parsed, and their values held against the kinds that a run writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

LARGEST = sys.float_info.max  # of numbers: JSON can hold larger ones, and infinity


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
    ("pid is 'abc', expected int", '')
    >>> wrong_value({}, {"step": int}, required=("step",)), wrong_value({"seconds": 1e400}, {"seconds": float | None})
    ('step is missing', 'seconds is inf, expected float | None')
    """
    for key in required:
        if key not in row:
            return f"{key} is missing"
    for key, kind in kinds.items():
        if key in row and not _is_kind(row[key], kind):
            expected = f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else kind
            return f"{key} is {repr(row[key])[:40]}, expected {getattr(expected, '__name__', expected)}"
    return ""


def _is_kind(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(value, int | float):
        is_whole_float = isinstance(value, int) and isinstance(0.0, kind)
        return (isinstance(value, kind) or is_whole_float) and abs(value) <= LARGEST
    return isinstance(value, kind)
