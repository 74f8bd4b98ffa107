"""What a constructor says of its arguments, as a finding: which key it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plainloop.config.build import RESERVED
from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.explain.suggest import as_override
from plainloop.config.nodes import leaves
from plainloop.errors import RunError

_OF_THE_MACHINE = (ImportError, OSError)  # says nothing of a value
# What code raises for arguments that it cannot use, and where a package or a file that they need is missing.
_OF_VALUES = (TypeError, ValueError, AssertionError, LookupError, ArithmeticError, AttributeError, RuntimeError)
REFUSALS = (*_OF_VALUES, *_OF_THE_MACHINE, RunError)

_DOTTED = re.compile(r"[a-z_]\w*(?:\.\w+)+")
_ADVICE = re.compile(r"\btype (\w+(?:\.\w+)*=(?:[^\s,;<{}]|\$\{[\w.]+\})+)")  # what our own messages tell to type
_ALIASES = {"lr": "learning"}


def finding_from_error(error: BaseException, node: Mapping[str, Any], path: str, context: CheckContext) -> Finding:
    """
    Args:
        node: what was built; {} where it was no node.
        path: its key. The finding is about it, or about one of the keys below it.
    """
    text = first_line(error)
    values = {key: value for key, value in leaves(node, f"{path}.") if key.rpartition(".")[2] not in RESERVED}
    key = _key_meant(error, text, values, context) or path
    got = as_override(values[key]) if key in values else ""
    text = text.removeprefix(f"{key}: ").removesuffix(f" but got {got}").rstrip(",")
    target = str(node.get("_target_", ""))
    advice = _ADVICE.search(text)
    ours = isinstance(error, RunError)
    instead = advice[1] if advice else error.hint if isinstance(error, RunError) else ""
    return Finding(key, f"{target} refuses it: {text}" if target and not ours else text, got, instead=instead)


def first_line(error: BaseException) -> str:
    """What it says, or what it is when it says nothing."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    # KeyError gives the bare key, and errors of arithmetic and indices mean little without their kind.
    return f"{kind}: {lines[0]}" if lines and isinstance(error, LookupError | ArithmeticError) else (lines or [kind])[0]


def _key_meant(error: BaseException, text: str, values: Mapping[str, Any], context: CheckContext) -> str:
    """The key whose name the message has, or whose value; else the only one that the person has changed."""
    for key in _DOTTED.findall(text):
        if key in values or any(name.startswith(f"{key}.") for name in values):
            return str(key)
    words = re.findall(r"[a-z_]\w*", text.lower())
    changed = [key for key in values if context.is_typed(key)]
    named = [(key not in changed, at, key) for key in values if (at := _mentioned(key, words)) is not None]
    if named:
        return min(named)[2]
    tokens = re.findall(r"-?[\w.]+\w", text) + re.findall(r"-?\d+", text)
    quoted = [key for key in changed if as_override(values[key]) in tokens or str(values[key]) in tokens]
    if len(quoted) == 1:
        return quoted[0]
    return changed[0] if len(changed) == 1 and not isinstance(error, _OF_THE_MACHINE) else ""


def _mentioned(key: str, words: list[str]) -> int | None:
    """Where a message names an argument: betas as `beta`, eps as `epsilon`, lr as `learning rate`."""
    name = key.rpartition(".")[2].lower()
    for at, word in enumerate(words):
        longer = len(name) >= 3 and word.startswith(name)
        shorter = len(word) >= 3 and name in (f"{word}s", f"{word}es")
        if word == name or longer or shorter or word == _ALIASES.get(name):
            return at
    return None
