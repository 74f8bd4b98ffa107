"""What is known of the data before anything is decoded: the node `facts` of every config."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from plainloop.config.build import RESERVED
from plainloop.config.targets import locate

# Facts by data config: a sweep looks into each folder once.
Cache = dict[str, dict[str, Any]]


def facts_of(data: Mapping[str, Any], *, plugins: Sequence[str] = (), cache: Cache | None = None) -> dict[str, Any]:
    """Plain facts of a resolved data node, with `num_classes`. Raises what the source's `facts` raises."""
    key = json.dumps(data, sort_keys=True, default=str)
    if cache is None or key not in cache:
        source: Any = locate(data["_target_"], plugins)
        found = source.facts(**{name: value for name, value in data.items() if name not in RESERVED})
        plain = dataclasses.asdict(found) | {"num_classes": found.num_classes}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        if cache is None:
            return plain
        cache[key] = plain
    return cache[key]
