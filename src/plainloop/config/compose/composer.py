"""Composes configs through Hydra, and finds everything that is wrong with the overrides instead of the first thing.

Hydra stops at the first override that it cannot apply. Here each is tried by itself; one that fails becomes a `Problem`
and is left out, so that the rest of the config can still be checked.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ConfigDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plainloop.config.explain.problems import Problem, as_typed
from plainloop.config.explain.unknown_keys import UnknownKey, has_free_names
from plainloop.config.explain.wrong_options import Library, by, needs_multirun, wrong_option
from plainloop.config.nodes import key_paths, node_at
from plainloop.run_dir.status import quote_for_hydra

_SEARCH = "hydra.searchpath="
_NAN = re.compile(r"(?<![^\[,])(nan|inf)(?![^\],])")  # whole, alone or in a list

# What composing may raise for something that a person wrote.
_BROKEN = (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError)
# From the config that options compose, and the values that will be applied: the config that takes them.
Base = Callable[[DictConfig, Sequence[Override]], DictConfig]


@dataclass(frozen=True)
class Composed:
    config: DictConfig | None  # with Hydra's own node; None when not even the rest composes
    problems: list[Problem]


class Composer:
    """Hydra's composition of one conf folder. Makes the Hydra instance that `hydra.core` looks for globally."""

    def __init__(self, conf_dir: Path, *, config_name: str = "train", extra_dir: Path | str = "") -> None:
        self.conf_dir, self.config_name = conf_dir.resolve(), config_name
        version.setbase("1.3")
        GlobalHydra.instance().clear()
        search_path = create_config_search_path(str(self.conf_dir))
        if extra_dir:
            extra = f"file://{Path(extra_dir).resolve()}"
            search_path.prepend("command-line", extra, SearchPathQuery(provider="schema"))
        self.hydra = Hydra.create_main_hydra2(task_name=config_name, config_search_path=search_path)
        JobRuntime.instance().set("name", config_name)
        assert isinstance(self.hydra.config_loader, ConfigLoaderImpl)
        self.loader = self.hydra.config_loader
        # Every YAML file is read once for all jobs of a sweep.
        self.loader.repository = CachingConfigRepository(self.loader.repository)  # type: ignore[assignment]
        self._pickled: dict[tuple[str, ...], bytes] = {}
        self._search: tuple[str, ...] = ()  # overrides of hydra.searchpath: where further groups and options are

    @cached_property
    def repository(self) -> IConfigRepository:
        """All files that configs are composed from."""
        _, found = self.loader._parse_overrides_and_create_caching_repo(self.config_name, list(self._search))
        return found

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Every group with its options, Hydra's own included."""
        options = {name: self.repository.get_group_options(name, ObjectType.CONFIG) for name in self._subgroups("")}
        return {name: sorted(set(found)) for name, found in options.items() if found}

    @property
    def library(self) -> Library:
        return Library(self.groups, self.written)

    def _subgroups(self, parent: str) -> list[str]:
        found = []
        for name in sorted(set(self.repository.get_group_options(parent, ObjectType.GROUP))):
            path = f"{parent}/{name}" if parent else name
            found += [path, *self._subgroups(path)]
        return found

    def written(self, group: str, option: str) -> dict[str, Any]:
        """The keys that an option's file has, dotted and without the group's name, and what is written there."""
        found = self.repository.load_config(f"{group}/{option}")
        config, values = found and found.config, dict[str, Any]()
        if found is None or not isinstance(config, DictConfig):
            return values
        for entry in found.defaults_list or ():  # options that this one starts from
            if isinstance(entry, ConfigDefault) and entry.path not in (None, "_self_"):
                values |= self.written(group, entry.path)
        for key in key_paths(config):
            node = node_at(config, key)
            values[key] = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()
        return values

    def _look_where(self, overrides: Sequence[str]) -> None:
        """Takes further folders of the command line into account."""
        search = tuple(text for text in overrides if text.startswith(_SEARCH) and _parse(text, []) is not None)
        if search != self._search:
            before, self._search = self._search, search
            self.__dict__.pop("repository", None)
            self.__dict__.pop("groups", None)
            try:
                _ = self.repository
            except _BROKEN:  # no list of folders: told when it is applied
                self._search = before

    def as_names(self, overrides: Sequence[str]) -> list[str]:
        """Quotes options that Hydra would take for numbers: `debug=nan` names a file."""
        self._look_where(overrides)
        names = []
        for text in overrides:
            group, _, option = text.partition("=")
            is_name = option and {"nan", "inf"} & {*self.groups.get(group.lstrip("+"), ())}
            names.append(f"{group}=" + _NAN.sub(r"'\1'", option) if is_name else text)
        return names

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        return self.hydra.compose_config(self.config_name, list(overrides), run_mode=mode)

    def compose_or_explain(self, overrides: Sequence[str], *, base: Base | None = None) -> Composed:
        """One run's config, just as Hydra composes it; or without the overrides that are wrong, each explained.

        Hydra composes each choice of options once; values are applied to copies of that, or of what `base` makes of it.
        """
        problems: list[Problem] = []
        chosen, values = self._sorted_out(overrides, problems)
        given = {override.input_line: override for override in (*chosen, *values)}
        try:
            config = self._copy_of(chosen, values, problems)
        except _BROKEN as error:
            what = " ".join(line.strip() for line in str(error.__cause__ or error).splitlines()[-9:][:6])
            return Composed(None, [*problems, Problem("conf", what)])
        if base is not None:
            config = base(config, values)
        problems += [problem for override in values if (problem := self._apply(override, config))]
        ours = [given[text] for text in overrides if text in given and not given[text].is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in ours]
        names = config.hydra.job.config.override_dirname
        dirname = get_overrides_dirname(ours, list(names.exclude_keys), names.item_sep, names.kv_sep)
        config.hydra.job.override_dirname = dirname
        return Composed(config, problems)

    def _sorted_out(self, overrides: Sequence[str], problems: list[Problem]) -> tuple[list[Override], list[Override]]:
        """Options (with keys of Hydra), and values for other keys; adds wrong options to `problems`."""
        self._look_where(overrides)
        chosen, values = list[Override](), list[Override]()
        for text in overrides:
            override = _parse(text, problems)
            if override is None:
                continue
            group = override.key_or_group
            if group not in self.groups or isinstance(override.value(), dict):
                is_value = not override.is_hydra_override() or override.is_sweep_override()
                (values if is_value else chosen).append(override)
                continue
            problem = wrong_option(override, self.library, self._defaults.get(group))
            problems.append(problem) if problem else chosen.append(override)
        return chosen, values

    def _copy_of(self, chosen: Sequence[Override], values: list[Override], problems: list[Problem]) -> DictConfig:
        """What the options compose; those that do not are added to `problems`, keys of Hydra's own to `values`."""
        key = (os.getcwd(), *(str(override.input_line) for override in chosen))  # Hydra writes the folder down
        if key not in self._pickled:
            try:
                self._pickled[key] = pickle.dumps(self.compose(key[1:]))
            except _BROKEN:
                accepted, config = list[str](), self.compose(())
                for override, text in zip(chosen, key[1:], strict=True):
                    try:
                        config = self.compose([*accepted, text])
                        accepted.append(text)
                    except _BROKEN as error:
                        if override.key_or_group in self.groups:
                            group, what, instead = override.key_or_group, _first_line(error), text.lstrip("+")
                            problems.append(Problem(group, what, given_by=by(text), instead=instead))
                        else:
                            values.append(override)  # explained when it is applied
                return config
        config = pickle.loads(self._pickled[key])
        OmegaConf.clear_cache(config)  # the time of day of the first one
        return config

    def wrong_flags(self, flags: Sequence[tuple[str, str]]) -> list[Problem]:
        """What to type instead of flags such as `--epochs 90`: each is explained as the override of its name."""
        problems = []
        for flag, value in flags:
            text = f"{flag.lstrip('-').replace('-', '_')}={value or 'true'}"
            told = next(iter(self.compose_or_explain([text]).problems), Problem(flag, "is no flag here", instead=text))
            instead = f"leave {flag} out" if told.instead.startswith("leave ") else told.instead
            got, expected = f"{flag} {value}".strip(), "overrides: key=value without dashes"
            problems.append(replace(told, key=flag, got=got, expected=expected, given_by="", instead=instead))
        return problems

    def defaults(self, overrides: Sequence[str]) -> list[ResultDefault]:
        """The files that a config consists of, the later over the earlier."""
        chosen = [str(override.input_line) for override in self._sorted_out(overrides, [])[0]]
        return list(self.loader.compute_defaults_list(self.config_name, chosen, RunMode.RUN).defaults)

    @cached_property
    def _defaults(self) -> dict[str, str | None]:
        """The option of each group that conf/train.yaml names; None where it leaves one out."""
        return dict(self.compose(()).hydra.runtime.choices)

    def _apply(self, override: Override, config: DictConfig) -> Problem | None:
        key, value = override.key_or_group, override.value()
        adds, node = override.is_add() or override.is_force_add(), node_at(config, key)
        is_new = node is None and not (override.is_delete() and key in self.groups)
        if is_new and not adds and not override.is_delete() and has_free_names(key, config, self.library):
            override, adds = replace(override, type=OverrideType.FORCE_ADD), True
        is_unknown = is_new and (not adds or ("." not in key and not isinstance(value, dict)))
        holds_keys = isinstance(node, DictConfig) and node and not isinstance(value, dict) and not override.is_delete()
        if is_unknown or (holds_keys and not override.is_sweep_override()):
            return UnknownKey(override, config, self.library).problem()
        if override.is_sweep_override():
            return needs_multirun(override)
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], config)
        except _BROKEN as error:
            typed, what = as_typed(str(override.input_line)), _first_line(error.__cause__ or error)
            instead = typed.lstrip("+") if override.is_add() and node is not None else f"leave {typed} out"
            return Problem(key, what, given_by=by(override.input_line), instead=instead)
        return None


@cache
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _parse(text: str, problems: list[Problem]) -> Override | None:
    try:
        return _parsed(text)
    except HydraException as error:
        key, _, value = as_typed(text).partition("=")
        what, instead = f"does not parse: {_first_line(error)}", shlex.quote(f"{key}={quote_for_hydra(value)}")
        inside = value[1:-1] if re.fullmatch(r"\[[^][{}]*\]", value) else value
        if "=" not in text:
            problems.append(Problem(text, "is no override", expected="key=value, as in trainer.duration=90ep"))
            return None
        if re.fullmatch(r"\(.*\)", value):
            what, instead = "is no list: lists are written with [ ]", f"{key}=[{value[1:-1]}]"
        elif value.startswith("{") and '"' in value:
            what, instead = "has keys in quotes, which Hydra does not read", f"'{key}={value.replace(chr(34), '')}'"
        elif re.search(r"(^|,)\s*(,|$)", inside):
            what = "has an empty value in its list"
            kept = ",".join(item for item in inside.split(",") if item.strip())
            instead = f"{key}=[{kept}]" if inside != value else f"{key}={kept or '...'}"
        problems.append(Problem(key, what, given_by=by(text), instead=instead))
        return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip()
