"""Where the value of a key comes from: each file that writes it, the command line, and the keys that it refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from plainloop.config.compose.origin import Origin
from plainloop.config.durations import Clock
from plainloop.config.explain.problems import as_typed
from plainloop.config.explain.suggest import as_override
from plainloop.config.nodes import leaves
from plainloop.system.secrets import looks_secret

_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")
_DURATION = re.compile(r"\d+(\.\d+)?(ep|%)")
_DEEPEST = 8  # references to references


def value_lines(key: str, config: Mapping[str, Any], origin: Origin, *, depth: int = 0) -> Iterator[str]:
    """The value and where it was written, the place that counts first; then the same for the keys that it refers to."""
    indent = "  " * depth
    yield f"{indent}{key} = {shown(key, config)}"
    written = [(as_override(place.value), str(place)) for place in reversed(origin.history(key))]
    if typed := origin.override_of(key):
        written.insert(0, (as_typed(typed).partition("=")[2], f"command line: {as_typed(typed)}"))
    for number, (value, where) in enumerate(written):
        value = "***" if looks_secret(key) else value
        over = "" if number == 0 else "   replaced by the line above"
        yield f"{indent}  {value:<20} {where}{over}"
    if not written:
        yield f"{indent}  no file of conf/ writes it: it follows from the rest"
    for reference in references(written[0][0], key) if written and depth < _DEEPEST else ():
        if reference.startswith("facts."):
            yield f"{indent}  {reference} = {shown(reference, config)}"
            yield f"{indent}    what the data set says of itself   (data: {origin.chosen_by('data') or 'the default'})"
        else:
            yield from value_lines(reference, config, origin, depth=depth + 1)


def references(text: str, key: str) -> list[str]:
    """The keys that a value of `key` refers to.

    >>> references("${facts.num_classes}", "model.num_classes"), references("${..batch_size}", "data.val.batch_size")
    (['facts.num_classes'], ['data.batch_size'])
    """
    found = []
    for dots, name in _REFERENCE.findall(text):
        parents = key.split(".")[: -len(dots)] if dots else []
        found.append(".".join([*parents, name]))
    return found


def group_lines(group: str, choices: Mapping[str, Any], origin: Origin) -> Iterator[str]:
    """Which option was chosen, and by what."""
    if group in choices:
        yield f"{group}={choices[group]}   chosen by {origin.chosen_by(group) or 'the default'}"


def table_lines(node: str, config: Mapping[str, Any], origin: Origin) -> Iterator[str]:
    """Each key below a node in one line: its value and the place that counts."""
    rows = [(key, shown(key, config), origin.given_by(key)) for key, _ in leaves(config) if key.startswith(f"{node}.")]
    widths = [min(44, max(len(row[column]) for row in rows)) for column in range(2)] if rows else []
    for key, value, where in rows:
        yield f"  {key:<{widths[0]}}  {value:<{widths[1]}}  {where}".rstrip()


def meaning(key: str, config: Mapping[str, Any], clock: Clock | None) -> Iterator[str]:
    """What the run makes of the value: steps of a duration, the scaled rate."""
    value = dict(leaves(config)).get(key)
    if clock is not None and isinstance(value, str) and _DURATION.fullmatch(value):
        yield f"  that is {clock.steps(value):,} optimizer steps; one epoch has {clock.steps_per_epoch:,}"
    if clock is not None and key == "optimizer.lr" and isinstance(value, int | float):
        from plainloop.config.parts import lr_scaling_of
        from plainloop.loop.optim import scaling_text

        scaling = lr_scaling_of(config)
        if scaling["rule"] != "none":
            yield f"  the run's rate is {scaling_text(value, **scaling)}, by trainer.lr_scaling.rule={scaling['rule']}"


def shown(key: str, config: Mapping[str, Any]) -> str:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return "***" if looks_secret(key) and node is not None else as_override(node)
