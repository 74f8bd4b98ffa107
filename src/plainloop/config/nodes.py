"""The nodes of a composed config: as they are written, or resolved to plain values, with what is missing or broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import split_key
from omegaconf.errors import OmegaConfBaseException


class Pending:
    """Stands for a value that follows from the data, while the data have not been looked at."""

    def __repr__(self) -> str:
        return "(follows from the data)"


PENDING = Pending()


@dataclass(frozen=True)
class Resolved:
    config: dict[str, Any]
    missing: list[str]  # keys that are ???
    broken: dict[str, str]  # key -> what is wrong with its interpolation


def resolve(config: DictConfig, facts: Mapping[str, Any] | None = None) -> Resolved:
    """Everything but Hydra's own node, interpolations replaced by their values.

    Without `facts` what refers to them is `PENDING`; with them they are a node of their own.
    """
    content: Any = config._content
    task = OmegaConf.create({key: value for key, value in content.items() if key != "hydra"})
    if facts is not None:
        task["facts"] = dict(facts)
    missing: list[str] = []
    broken: dict[str, str] = {}
    plain = _mapping(task, "", missing, broken, facts is not None)
    return Resolved(plain, missing, broken)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; lists are leaves."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _mapping(node: DictConfig, path: str, missing: list[str], broken: dict[str, str], known: bool) -> dict[str, Any]:
    return {str(k): _value(node, k, f"{path}.{k!s}" if path else str(k), missing, broken, known) for k in node}


def _value(parent: Any, key: Any, path: str, missing: list[str], broken: dict[str, str], known: bool) -> Any:
    raw = parent._get_node(key)
    if raw._is_missing():
        missing.append(path)
        return None
    if raw._is_none():
        return None
    if raw._is_interpolation():
        text = str(raw._value())
        if not known and "facts." in text:
            return PENDING
        try:
            found = parent[key]
        except OmegaConfBaseException as error:
            if not known and "facts" in str(error):
                return PENDING
            broken[path] = f"{text!r}: {str(error).splitlines()[0]}"
            return None
        if not isinstance(found, DictConfig | ListConfig):
            return found
        raw = found
    if isinstance(raw, DictConfig):
        return _mapping(raw, path, missing, broken, known)
    if isinstance(raw, ListConfig):
        return [_value(raw, i, f"{path}.{i}", missing, broken, known) for i in range(len(raw))]
    return raw._value()


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
