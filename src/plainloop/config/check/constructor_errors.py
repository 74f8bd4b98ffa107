"""What a constructor says of its arguments, as a problem of the config: which key it means, and what would do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plainloop.config.build import RESERVED
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import Problem
from plainloop.config.explain.suggest import nearest
from plainloop.config.resolve import leaves

# What code raises for arguments that it cannot use, and for want of a package or a file of theirs.
REFUSALS = (
    TypeError,
    ValueError,
    AssertionError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    ImportError,
    OSError,
)
_OF_THE_MACHINE = (ImportError, OSError)  # says nothing of a value

_DOTTED = re.compile(r"[a-z_]\w*(?:\.\w+)+")
_ADVICE = re.compile(r"\btype (\w+(?:\.\w+)*=[^\s,;<]+)")  # what our own messages say of the way out
_ALIASES = {"lr": "learning"}


def refused(error: Exception, node: Mapping[str, Any], path: str, origin: Origin, *, names: bool = True) -> Problem:
    """
    Args:
        node: what was built.
        path: its key; what the error blames lies below it, or is it.
        names: whether the error is in the words of the node's own target; else a word of it means nothing.
    """
    text = first_line(error)
    values = {key: value for key, value in leaves(node, f"{path}.") if key.rpartition(".")[2] not in RESERVED}
    key = (_blamed(error, text, values, origin) if names else "") or path
    value = shown(values[key]) if key in values else ""
    text = text.removeprefix(f"{key}: ").removesuffix(f" but got {value}").rstrip(",")
    who = str(node.get("_target_", ""))
    what = f"{who} refuses it: {text}" if who else text
    advice = _ADVICE.search(text)
    if key == path:
        typed = [text for text in origin.overrides if text.lstrip("+~").startswith(f"{path}.")]
        typed = typed or [text for text in origin.overrides if text.startswith(f"{path}=")]
        instead = f"leave out {'one of ' if len(typed) > 1 else ''}{', '.join(typed)}" if typed else ""
        return Problem(path, what, given_by=origin.given_by(path), instead=advice[1] if advice else instead)
    place = origin.written(key)
    ours = place is not None and place.text != "" and origin.override_of(key)
    other = f"{key}={place.text.replace(', ', ',')}" if ours and place else _without(key, origin)
    return Problem(
        key,
        what,
        value,
        f"such as {place.text} ({place})" if ours and place else "",
        origin.given_by(key),
        instead=advice[1] if advice else other,
    )


def unknown_optimizer(problem: Problem, node: Mapping[str, Any]) -> Problem:
    """timm's own words for a misspelt name leave open which there are."""
    import timm.optim

    names = [str(name) for name in timm.optim.list_optimizers()]
    near = nearest(str(node.get("opt")), names)
    return Problem(
        "optimizer.opt",
        "timm has no such optimizer",
        str(node.get("opt")),
        f'one of {len(names)} names: python -c "import timm.optim; print(*timm.optim.list_optimizers())"',
        problem.given_by,
        meant=", ".join(near),
        instead=f"optimizer.opt={near[0]}" if near else problem.instead,
    )


def first_line(error: BaseException) -> str:
    """What it says, or what it is when it says nothing."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    # KeyError gives the bare key, and errors of arithmetic and indices mean little without their kind.
    return f"{kind}: {lines[0]}" if lines and isinstance(error, LookupError | ArithmeticError) else (lines or [kind])[0]


def shown(value: Any) -> str:
    """As it would be typed.

    >>> shown([2, None, True]), shown("a")
    ('[2,null,true]', 'a')
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _blamed(error: Exception, text: str, values: Mapping[str, Any], origin: Origin) -> str:
    """The key whose name the message has, or whose value; else the only one that the person has changed."""
    for key in _DOTTED.findall(text):
        if key in values:
            return str(key)
    words = re.findall(r"[a-z_]\w*", text.lower())
    changed = [key for key in values if origin.override_of(key)]
    named = [(key not in changed, at, key) for key in values if (at := _mentioned(key, words)) is not None]
    if named:
        return min(named)[2]
    tokens = re.findall(r"-?[\w.]+\w", text) + re.findall(r"-?\d+", text)
    quoted = [key for key in changed if shown(values[key]) in tokens or str(values[key]) in tokens]
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


def _without(key: str, origin: Origin) -> str:
    text = origin.override_of(key)
    return f"leave {text} out" if text else ""
