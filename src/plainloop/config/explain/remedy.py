"""What was meant by a value that does not fit: a unit written out, another library's word, a slip of the pen."""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from plainloop.config.explain.names import nearest
from plainloop.config.types import UNKNOWN, misfit
from plainloop.contracts import Steps

_AMOUNT = re.compile(r"[-+]?\s*(\d+(?:\.\d+)?)\s*([a-z]*)\.?")
_UNITS = {
    **dict.fromkeys(("e", "ep", "eps", "epo", "epoch", "epochs"), "ep"),
    **dict.fromkeys(("s", "st", "step", "steps", "it", "its", "iter", "iters", "iteration", "iterations"), "st"),
    **dict.fromkeys(("b", "batch", "batches", "update", "updates"), "st"),
    **dict.fromkeys(("percent", "pct"), "%"),
}
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1", "1.0", "y", "t", "enable", "enabled"), True),
    **dict.fromkeys(("false", "no", "off", "0", "0.0", "n", "f", "none", "disable", "disabled"), False),
}
# Other libraries' words for one of several choices; each counts only where ours is among them.
_WORDS = {
    **dict.fromkeys(("16", "16-mixed", "16-true", "float16", "half", "fp16-mixed", "amp"), "fp16"),
    **dict.fromkeys(("bf16-mixed", "bf16-true", "bfloat16", "16-bf"), "bf16"),
    **dict.fromkeys(("32", "32-true", "float32", "float", "single", "full", "tf32", "no"), "fp32"),
    **dict.fromkeys(("gpu", "gpus", "nvidia", "cuda:0"), "cuda"),
    **dict.fromkeys(("tpu", "any"), "auto"),
    **dict.fromkeys(("ce", "softmax", "nll", "nll_loss"), "cross_entropy"),
    **dict.fromkeys(("binary_cross_entropy", "sigmoid"), "bce"),
    **dict.fromkeys(("off", "false", "null", "disabled", "no"), "never"),
    **dict.fromkeys(("ignore", "continue"), "skip"),
    **dict.fromkeys(("error", "stop", "abort"), "raise"),
}


def meant_by(value: Any, annotation: Any) -> str:
    """A value that fits and is likely what was meant, as one types it; "" when there is none.

    >>> meant_by("5epochs", Steps), meant_by("1000it", Steps), meant_by(0.5, Steps), meant_by("5h", Steps)
    ('5ep', '1000st', '0.5ep', '')
    >>> meant_by("bf16-mixed", Literal["fp32", "bf16", "fp16"]), meant_by("yess", bool), meant_by("norm", list[str])
    ('bf16', 'true', '[norm]')
    """
    for member in _members(annotation):
        found = _meant_by(value, member)
        if found and misfit(_read(found), annotation) is None:
            return found
    return ""


def typed(value: Any) -> str:
    """A value of the config as one types it.

    >>> typed(None), typed(True), typed(["norm", 1])
    ('null', 'true', '[norm,1]')
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def kind_of(value: Any) -> Any:
    """The type that a value of our YAML stands for; UNKNOWN where it says nothing of it."""
    if isinstance(value, str):
        if value == "???" or "${" in value:
            return UNKNOWN
        return Steps if misfit(value, Steps) is None else str
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return bool
    if isinstance(value, Sequence):
        kinds = {str(kind): kind for kind in map(kind_of, value)}
        return list[kinds.popitem()[1]] if len(kinds) == 1 and UNKNOWN not in kinds.values() else list  # type: ignore[misc]
    return float if isinstance(value, int | float) else dict


def _meant_by(value: Any, kind: Any) -> str:
    text = str(value).strip().lower()
    if kind is Steps:
        return _duration(text)
    if get_origin(kind) is Literal:
        return _choice(text, [str(choice) for choice in get_args(kind)])
    if kind is bool:
        near = nearest(text, _BOOLEANS)
        known = _BOOLEANS.get(text, _BOOLEANS[near[0]] if near and len(text) > 2 else None)
        return "" if known is None else typed(known)
    if kind is int and isinstance(value, float) and value.is_integer():
        return str(int(value))
    if get_origin(kind) is list or kind is list:
        item = (*get_args(kind), UNKNOWN)[0]
        items = [typed(i) if misfit(i, item) is None else meant_by(i, item) for i in _items(value)]
        return f"[{','.join(items)}]" if all(items) else ""
    return ""


def _duration(text: str) -> str:
    found = _AMOUNT.fullmatch(text)
    if found is None:
        return ""
    unit = _UNITS.get(found[2] or "ep") or next((_UNITS[name] for name in nearest(found[2], _UNITS)), "")
    amount = float(found[1])
    known = unit if len(found[2]) != 1 or found[2] in _UNITS else ""  # of one letter none is near
    return f"{amount:g}{known}" if known and (known != "st" or amount.is_integer()) else ""


def _choice(text: str, choices: Sequence[str]) -> str:
    if _WORDS.get(text) in choices:
        return _WORDS[text]
    plain = re.sub(r"[^a-z0-9]", "", text)
    begun = [choice for choice in choices if len(choice) > 2 and plain.startswith(re.sub(r"[^a-z0-9]", "", choice))]
    return next(iter([*begun, *nearest(text, choices)]), "")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [leaf for member in get_args(annotation) for leaf in _members(member)]
    return [annotation]


def _read(text: str) -> Any:
    if text.startswith("["):
        return [_read(item) for item in text.strip("[]").split(",") if item]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if any(sign in text for sign in ".e") else int(text)
    except ValueError:
        return text
