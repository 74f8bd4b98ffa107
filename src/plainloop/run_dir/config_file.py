"""config.yaml of a run, which may come from somebody else: values only, and nothing in it is followed. No torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from plainloop.errors import BadConfig, BadData
from plainloop.system import storage

GROUPS = ("task", "data", "model", "augment", "optimizer", "scheduler", "trainer", "checkpoint", "logger", "facts")
FACTS = ("num_train", "num_val", "class_names", "image_shape", "mean", "std")
MOST_BYTES, MOST_VALUES, DEEPEST = 4_000_000, 300_000, 50  # 20,000 classes have 1 MB and 100,000 values

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(folder: Path) -> dict[str, Any]:
    """The config that a run was started with. Raises BadConfig, and BadData where it is no file."""
    path = folder / "config.yaml"
    if not os.path.lexists(path):
        hint = "a run directory holds config.yaml; train.py prints its path in its first line"
        raise BadConfig(f"{folder} has no config.yaml: it is no run directory", hint=hint)
    try:
        config = read_yaml(path)
        text = json.dumps(config)  # which refuses dates, bytes and sets, as YAML can hold them
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(path, str(error).partition("\n")[0]) from error
    missing = [group for group in GROUPS if not isinstance(config.get(group), dict)]
    if missing := missing or [f"facts.{name}" for name in FACTS if name not in config["facts"]]:
        raise _unusable(path, f"it is not whole, or no run's: {', '.join(missing)} missing")
    if (holder := _with_null_key(config)) is not None:
        raise _unusable(path, f"{holder or 'it'} has a key null, and the keys that a run writes are words")
    if asks := re.search(r"\$\{[^}]*}?", text):
        raise _unusable(path, f"it holds {asks[0]}, and a run saves values only")
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file of YAML. Raises ValueError, OSError and BadData.

    A few lines of aliases can stand for a billion values, and libyaml's loader ends the process where values lie very
    deep in one another; so the file is looked through before it is loaded.
    """
    data = storage.read_whole(path, most=MOST_BYTES)
    depth = 0
    try:
        for number, event in enumerate(yaml.parse(data, Loader=_Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {event.start_mark.line + 1}: *{event.anchor} is an alias; no run writes one")
            if depth > DEEPEST or number > MOST_VALUES:
                raise ValueError("it holds more than any run writes")
        found = yaml.load(data, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else "it is no text in UTF-8"
        raise ValueError(where) from error
    if not isinstance(found, dict):
        raise ValueError("it holds no keys")
    return found


def _with_null_key(node: Any, path: str = "") -> str | None:
    """The dotted key of a mapping with a key `null`, which OmegaConf does not take; "" is the whole config."""
    if isinstance(node, dict) and None in node:
        return path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = (_with_null_key(inner, f"{path}.{key}".lstrip(".")) for key, inner in items)
    return next((key for key in found if key is not None), None)


def _unusable(path: Path, why: str) -> BadConfig:
    hint = f"put the file back as the run wrote it, or begin a new run from its weights: init_from={path.parent}"
    return BadConfig(f"{path} cannot be used: {why}", hint=hint)


def recorded_overrides(folder: Path) -> list[str]:
    """The overrides of the command that began the run, as Hydra has written them down; [] where it has not."""
    try:
        found = read_yaml(folder / ".hydra" / "hydra.yaml")["hydra"]["overrides"]["task"]
    except (OSError, ValueError, KeyError, TypeError, BadData):
        return []
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
