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

_ADVICE = re.compile(
    r"\btype (\w+(?:\.\w+)*=(?:\[[\w.,]*\]|[^\s,;<{}]|\$\{[\w.]+\})+)"
)  # what our own messages tell to type


def finding_from_error(error: BaseException, node: Mapping[str, Any], path: str, context: CheckContext) -> Finding:
    """`node` is what was built, {} where it was no node; the finding is about its key `path` or a key below it."""
    text = first_line(error)
    values = {key: value for key, value in leaves(node, f"{path}.") if key.rpartition(".")[2] not in RESERVED}
    key = _key_meant(error, text, values, path, context)
    got = as_override(values[key]) if key in values else ""
    text = without_key(text, key, got).removesuffix(f" but got {got}").rstrip(",")
    target = str(node.get("_target_", ""))
    target = "" if target.startswith("plainloop.") else target  # our own messages say which key they mean
    advice = _ADVICE.search(text)
    ours = isinstance(error, RunError)
    instead = advice[1] if advice else error.hint if isinstance(error, RunError) else ""
    return Finding(key, f"{target} refuses it: {text}" if target and not ours else text, got, instead=instead)


def without_key(text: str, key: str, got: str) -> str:
    """What a message says after the key and its value, which stand beside it anyway.

    >>> without_key("model.anchors=[8, 16] must be 5", "model.anchors", "[8,16]"), without_key("a: no", "a", "")
    ('must be 5', 'no')
    """
    text = text.removeprefix(f"{key.partition('.')[0]}: ").removeprefix(f"{key}: ")
    rest = text.removeprefix(f"{key}=").removeprefix(f"{key.rpartition('.')[2]}=")
    for end in range(len(rest) if got and rest != text else 0):
        if re.sub(r"[\s'\"]", "", rest[:end]) == re.sub(r"[\s'\"]", "", got):
            return rest[end:].lstrip("'\": ")
    return text


def first_line(error: BaseException) -> str:
    """What it says, or what it is when it says nothing."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    # KeyError gives the bare key, and errors of arithmetic and indices mean little without their kind.
    return f"{kind}: {lines[0]}" if lines and isinstance(error, LookupError | ArithmeticError) else (lines or [kind])[0]


def _key_meant(error: BaseException, text: str, values: Mapping[str, Any], path: str, context: CheckContext) -> str:
    """The key that the message names; else the only one that was typed; else that of the node."""
    words = re.findall(r"[\w.]+\w", text)
    if stated := [word for word in words if word.startswith(f"{path}.")]:
        return str(stated[0])
    typed = [key for key in values if context.is_typed(key)]
    for keys in (typed, values):
        names = {key.rpartition(".")[2].lower(): key for key in keys}
        if named := [names[word.lower()] for word in words if word.lower() in names]:
            return named[0]
    return typed[0] if len(typed) == 1 and not isinstance(error, _OF_THE_MACHINE) else path
