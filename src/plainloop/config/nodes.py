"""A look at the raw nodes of a config: nothing is resolved, and nothing is made where there is nothing."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf._utils import split_key


def key_paths(config: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a config, inner nodes included, nothing resolved."""
    found = []
    for key in config:
        path = f"{prefix}{key!s}"
        found.append(path)
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            found += key_paths(node, path + ".")
    return found


def node_at(config: DictConfig, key: str) -> Any:
    """The raw node at a dotted key; None when there is none."""
    node: Any = config
    for part in split_key(key):
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            node = node._get_node(part, validate_access=False)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return None
        if node is None:
            return None
    return node
