"""The nodes of a composed config: as they are written, or resolved to plain values, with what is missing or broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import split_key
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.starting_weights import finetune_lr

OmegaConf.register_new_resolver("finetune_lr", finetune_lr, replace=True)  # ${finetune_lr:${facts.num_train}}
# ${is_one_of:${task.measure},masks,both}
OmegaConf.register_new_resolver("is_one_of", lambda value, *choices: value in choices, replace=True)


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
    before, found = dict(content), Resolved({}, [], {})
    content.pop("hydra", None)  # put back below: a copy would take longer than the rest
    if facts is not None:
        content["facts"] = OmegaConf.create(dict(facts), parent=config)
    try:
        found.config.update({str(key): _value(config, key, str(key), found, facts is not None) for key in config})
    finally:
        content.clear()
        content.update(before)
    return found


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; lists are leaves."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(node: Any, path: str, found: Resolved, known: bool) -> Any:
    if isinstance(node, DictConfig):
        return {str(key): _value(node, key, f"{path}.{key!s}".lstrip("."), found, known) for key in node}
    return [_value(node, number, f"{path}.{number}", found, known) for number in range(len(node))]


def _value(parent: Any, key: Any, path: str, found: Resolved, known: bool) -> Any:
    node = parent._get_node(key)
    if node._is_missing():
        found.missing.append(path)
        return None
    if node._is_interpolation():
        text = str(node._value())
        if not known and "facts." in text:
            return PENDING
        try:
            node = parent[key]
        except OmegaConfBaseException as error:
            if not known and "facts" in str(error):
                return PENDING
            found.broken[path] = f"{text!r}: {str(error).splitlines()[0]}"
            return None
        if not isinstance(node, DictConfig | ListConfig):
            return node
    if isinstance(node, DictConfig | ListConfig) and not node._is_none():
        return _plain(node, path, found, known)
    return node._value()


def key_paths(config: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a config, inner nodes included, nothing resolved."""
    found = []
    for key in config:
        found.append(f"{prefix}{key!s}")
        node: Any = config._get_node(key)
        if _is_mapping(node):
            found += key_paths(node, f"{found[-1]}.")
    return found


def node_at(config: DictConfig, key: str) -> Any:
    """The raw node at a dotted key; None when there is none."""
    node: Any = config
    for part in split_key(key):
        if _is_mapping(node):
            node = node._get_node(part, validate_access=False)
        else:
            inside = isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node)
            node = node._get_node(int(part)) if inside else None
    return node


def _is_mapping(node: Any) -> bool:
    return isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation())
