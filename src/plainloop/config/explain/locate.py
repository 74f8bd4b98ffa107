"""Turns each finding of the check into a message: where the key was given, the nearest name, what to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plainloop.config.check.findings import Finding
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.other_codes import lookup
from plainloop.config.explain.problems import Problem, as_typed, listing
from plainloop.config.explain.suggest import as_override, nearest, nearest_key, suggest_value
from plainloop.config.types import UNKNOWN, members_of, misfit
from plainloop.system.secrets import looks_secret

# Where a list was meant, and our YAML has one number.
LISTS = {"data.image_size": "[800,1333]"}


def locate(findings: Sequence[Finding], origin: Origin) -> list[Problem]:
    """One problem for each key.

    A value that nobody typed follows from another key where that has the same wrong value: only the other is a problem.
    """
    kept: dict[str, Finding] = {}
    for finding in findings:
        copied = not origin.override_of(finding.key) and any(finding.got == other.got for other in kept.values())
        if not (copied and finding.got):
            kept.setdefault(finding.key, finding)
    return [_problem(finding, origin) for finding in kept.values()]


def _problem(finding: Finding, origin: Origin) -> Problem:
    key, typed = finding.key, as_typed(origin.override_of(finding.key))
    what, instead, meant, notes = finding.what, finding.instead, "", finding.notes
    if typed.startswith("~"):
        instead = f"leave {typed} out"
    elif finding.unknown:
        return _unknown(finding, origin)
    elif finding.choices:
        near = nearest(str(finding.value), finding.choices)
        meant, instead = ", ".join(near), f"{key}={near[0]}" if near else ""
    elif finding.annotation is not UNKNOWN:
        instead = _fitting(key, finding.value, finding.annotation)
    instead = instead or _as_before(key, typed, origin)
    return Problem(key, what, finding.got, finding.expected, origin.given_by(key), meant, instead, notes)


def _unknown(finding: Finding, origin: Origin) -> Problem:
    """A key that does not exist: of an override, or of an interpolation in the value of another key."""
    key, what, typed, instead = finding.key, finding.what, as_typed(origin.override_of(finding.key)), ""
    near = [] if looks_secret(finding.unknown) else nearest_key(finding.unknown, finding.keys)
    value = typed.partition("=")[2] if typed.lstrip("+").startswith(f"{finding.unknown}=") else ""
    foreign = lookup(finding.unknown) if not near else None
    if near and value:
        instead = f"{'' if origin.written(near[0]) else '+'}{near[0]}={value}"
    elif foreign:
        instead = foreign.instead(value)
        what = what if f" {finding.unknown}=" in f" {instead}" else foreign.what(instead)
    elif typed and not near:
        instead = f"leave {typed if '{' in typed else key} out"
    notes = (f"valid keys: {listing(finding.keys)}",) if finding.keys else ()
    meant = _with_place(near[0], origin) if near else ""
    return Problem(key, what, finding.got, finding.expected, origin.given_by(key), meant, instead, notes)


def _fitting(key: str, value: Any, annotation: Any) -> str:
    """The value as the key takes it; "" where it is not known."""
    found = suggest_value(value, annotation)
    if not found and isinstance(value, list) and any(misfit([], kind) is None for kind in members_of(annotation)):
        found = LISTS.get(key, "")
    if isinstance(value, int) and found.endswith("ep"):
        return f"{key}={found}, or {key}={found[:-2]}st"
    if annotation is str and isinstance(value, int | float):
        return f"\"{key}='{value}'\""
    return f"{key}={found}" if found else ""


def _as_before(key: str, typed: str, origin: Origin) -> str:
    """What our YAML has there; else the command line without what was typed for the key or below it."""
    if typed:
        place = origin.written(key)
        if place is None or place.value in (None, "", "???") or "${" in str(place.value):
            return f"leave {typed} out"
        return f"{key}={as_override(place.value)}"
    below = [text for text in origin.overrides if text.lstrip("+~").startswith((f"{key}.", f"{key}="))]
    return f"leave out {'one of ' if len(below) > 1 else ''}{', '.join(below)}" if below else ""


def _with_place(key: str, origin: Origin) -> str:
    place = origin.written(key)
    return f"{key}   ({place})" if place else key
