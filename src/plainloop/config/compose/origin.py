"""Where a key of the config comes from: an override, or a line of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from plainloop.config.compose.composer import Composer
from plainloop.config.explain.problems import Problem, as_typed

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Place:
    file: str  # relative to the folder that holds conf/
    line: int
    value: Any  # as written there; None for mappings

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Origin:
    """Answers for one config. Files are read when the first question comes: a config without problems costs nothing."""

    def __init__(self, typed: Sequence[str], *, composer: Composer | None = None, saved: Path | None = None) -> None:
        self.overrides, self._composer, self.saved = list(typed), composer, saved

    def given_by(self, key: str) -> str:
        """For the person: the override that set the key, else file and line, else nothing."""
        text = self.override_of(key)
        return f"command line override {as_typed(text)}" if text else str(self.place_of(key) or "")

    def override_of(self, key: str) -> str:
        """The last override that sets this key or a node that holds it."""
        for text in reversed(self.overrides):
            name = text.partition("=")[0].lstrip("+~")
            if key == name or (key.startswith(name + ".") and "{" in text):
                return text
        return ""

    def place_of(self, key: str) -> Place | None:
        """The line that wrote the key, or the nearest node above it that a file wrote."""
        while key and key not in self._places:
            key = key.rpartition(".")[0]
        return self._places.get(key)

    def written(self, key: str) -> Place | None:
        """The line that wrote exactly this key."""
        return self._places.get(key)

    def history(self, key: str) -> list[Place]:
        """All lines that wrote exactly this key, the one that counts last; of a saved config, its line."""
        if self.saved is not None:
            return [place] if (place := self.written(key)) else []
        return [places[key] for places in self._files if key in places]

    def chosen_by(self, group: str) -> str:
        """For the person: what chose the option of a group: an override, or a line of a list of defaults."""
        if typed := next((text for text in self.overrides if text.partition("=")[0].lstrip("+") == group), ""):
            return f"command line override {as_typed(typed)}"
        found = [
            places[key]
            for key in (f"defaults.{group}", f"defaults.override /{group}")
            for places in self._files
            if key in places
        ]
        return str(found[-1]) if found else ""

    def located(self, problem: Problem) -> Problem:
        """The same with file and line of the key that was meant."""
        place = self.written(problem.meant) if problem.meant else None
        return replace(problem, meant=f"{problem.meant}   ({place})") if place else problem

    @cached_property
    def _places(self) -> dict[str, Place]:
        if self.saved is None:
            return self._of_conf()
        places: dict[str, Place] = {}
        _add_places(self.saved, str(self.saved), "", places)
        places.pop("plugins", None)  # these are given anew at each start
        return places | {key: place for key, place in self._of_conf().items() if key == "plugins"}

    def _of_conf(self) -> dict[str, Place]:
        return {key: place for places in self._files for key, place in places.items()}

    @cached_property
    def _files(self) -> list[dict[str, Place]]:
        """What each file of conf/ writes, the later over the earlier."""
        found: list[dict[str, Place]] = []
        if self._composer is not None:
            root = self._composer.conf_dir.parent
            folders = [Path(one.path) for one in self._composer.repository.get_sources() if one.scheme() == "file"]
            for default in self._composer.defaults(self.overrides):
                files = [folder / f"{default.config_path}.yaml" for folder in folders]
                file = next(filter(Path.is_file, files), None)
                if file is not None:
                    shown = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
                    found.append({})
                    _add_places(file, shown, default.package or "", found[-1])
        return found


def _add_places(file: Path, shown: str, package: str, places: dict[str, Place]) -> None:
    root = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader)
    if isinstance(root, yaml.MappingNode):
        _walk(root, shown, f"{package}." if package else "", places)


def _walk(node: yaml.MappingNode, shown: str, prefix: str, places: dict[str, Place]) -> None:
    for key, value in node.value:
        if not prefix and key.value == "defaults":
            _add_choices(value, shown, places)
            continue
        path = f"{prefix}{key.value}"
        is_mapping = isinstance(value, yaml.MappingNode)
        written = None if is_mapping else yaml.load(yaml.serialize(value), Loader=_Loader)
        places[path] = Place(shown, key.start_mark.line + 1, written)
        if is_mapping:
            _walk(value, shown, f"{path}.", places)


def _add_choices(node: yaml.Node, shown: str, places: dict[str, Place]) -> None:
    """The options that a list of defaults chooses, as `defaults.<group>`, which is no key of a config."""
    for entry in node.value if isinstance(node, yaml.SequenceNode) else ():
        if isinstance(entry, yaml.MappingNode):
            for group, option in entry.value:
                places[f"defaults.{group.value}"] = Place(shown, group.start_mark.line + 1, option.value)
