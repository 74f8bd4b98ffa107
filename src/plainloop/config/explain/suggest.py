"""What a person probably meant: the nearest of the names that exist, and a value that fits."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from plainloop.config.types import UNKNOWN, misfit
from plainloop.contracts import Steps

_CLOSE = 0.66  # of difflib's ratio: about one edit per three letters

_DURATION = re.compile(
    r"[-+]?\s*(?P<amount>\d+(\.\d+)?)\s*(?:(?P<ep>e|ep\w*)|(?P<st>s|st\w*|it\w*|batch\w*|updates?)|(%|pct|perc\w*))?"
)
_SIZE = re.compile(r"\d+\s*[x×]\s*\d+")  # 800x1333
_BOOLEANS = dict.fromkeys(("true", "yes", "on", "1", "1.0"), "true") | dict.fromkeys(("false", "no", "0"), "false")


def nearest(word: str, names: Iterable[str], *, count: int = 3) -> list[str]:
    """Names that differ by about one letter in three or less, the closest first.

    >>> nearest("resent18", ["resnet18", "resnet50"], count=1), nearest("cat", ["optimizer"])
    (['resnet18'], [])
    """
    lower = {name.lower(): name for name in names}
    return [lower[name] for name in get_close_matches(word.lower(), lower, n=count, cutoff=_CLOSE)]


def nearest_key(key: str, keys: Iterable[str], *, count: int = 3) -> list[str]:
    """The same for dotted keys: one edit away, else with the same last part elsewhere, else spelled alike.

    >>> nearest_key("batch_size", ["data.batch_size", "trainer.lr_scaling.base_batch_size"])
    ['data.batch_size']
    """
    parent, _, last = key.rpartition(".")
    scores = dict[str, float]()
    for other in keys:
        theirs, _, name = other.rpartition(".")
        if name.startswith("_") and not last.startswith("_"):
            continue  # _target_ is what nobody means who types another word
        alike = _ratio(last, name) if parent == theirs else _ratio(key, other) - 0.14  # groups alone say little
        if is_one_edit(key, other):
            scores[other] = 4 + (parent == theirs)
        elif name == last:
            scores[other] = 3 - other.count(".") / 10
        elif alike >= _CLOSE:
            scores[other] = alike + (parent == theirs)
    return sorted(scores, key=lambda other: (-scores[other], -_ratio(key, other), other))[:count]


def is_one_edit(word: str, name: str) -> bool:
    """Whether one letter was put in, left out or changed, or two were swapped."""
    longer = max(len(word), len(name))
    return abs(len(word) - len(name)) <= 1 and word != name and (1 - _ratio(word, name)) * longer < 1.01


def suggest_value(value: Any, annotation: Any) -> str:
    """A value that fits and is probably what was meant, as an override has it; "" when there is none.

    >>> suggest_value("5epochs", Steps), suggest_value("1000it", Steps), suggest_value(0.5, Steps)
    ('5ep', '1000st', '0.5ep')
    >>> suggest_value("800x1333", int | Sequence[int])
    '[800,1333]'
    >>> suggest_value("bf61", Literal["fp32", "bf16", "fp16"]), suggest_value("norm", list[str])
    ('bf16', '[norm]')
    """
    union = get_origin(annotation) in (Union, types.UnionType)
    for kind in get_args(annotation) if union else [annotation]:
        text = _suggestion(value, kind)
        if text and misfit(yaml.safe_load(text), annotation) is None:
            return text
    return ""


def as_override(value: Any) -> str:
    """A value of the config as an override has it: `null`, `true`, `[norm,1]`."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_override, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def kind_of(value: Any) -> Any:
    """The type that a value of our YAML stands for; UNKNOWN where it does not say."""
    if value is None or value == "???" or "${" in str(value):
        return UNKNOWN
    if isinstance(value, str):
        return Steps if misfit(value, Steps) is None else str
    if isinstance(value, Sequence):
        kinds = {str(kind): kind for kind in map(kind_of, value)}
        return list[kinds.popitem()[1]] if len(kinds) == 1 else list  # type: ignore[misc]
    return bool if isinstance(value, bool) else float if isinstance(value, int | float) else dict


def _suggestion(value: Any, kind: Any) -> str:
    text = str(value).strip().lower()
    if kind is Steps:
        found = _DURATION.fullmatch(text)
        unit = found and ("st" if found["st"] else "ep" if found["ep"] or text[-1].isdigit() else "%")
        return f"{float(found['amount']):g}{unit}" if found else ""
    if get_origin(kind) is Literal:
        text = text.replace("gpu", "cuda")
        return next(iter(nearest(text, map(str, get_args(kind)))), "")
    if kind is bool:
        return next((_BOOLEANS[word] for word in nearest(text, _BOOLEANS)), "")
    if kind is int and isinstance(value, float) and value.is_integer():
        return str(int(value))
    if get_origin(kind) in (list, Sequence) or kind is list:
        item = (*get_args(kind), UNKNOWN)[0]
        values = value if isinstance(value, list) else [value]
        if _SIZE.fullmatch(text):
            values = [int(side) for side in re.findall(r"\d+", text)]
        items = [as_override(v) if misfit(v, item) is None else suggest_value(v, item) for v in values]
        return f"[{','.join(items)}]" if all(items) else ""
    return ""


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
