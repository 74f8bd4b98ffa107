"""Which run a `resume=` means, what the command line changes of it, and whether anything is left of it to do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.config import compare
from plainloop.config.compose.composer import Composed, Composer
from plainloop.config.device_choices import CHOSEN
from plainloop.config.explain.problems import InvalidConfig, Problem, invalid_run
from plainloop.config.explain.wrong_options import by
from plainloop.config.nodes import leaves, resolve
from plainloop.config.settings import with_later_keys
from plainloop.errors import BadConfig, BadData
from plainloop.run_dir.config_file import read_config, read_yaml
from plainloop.run_dir.status import read_status

# What no run keeps: it is given anew at each start.
_OF_THE_START = ("resume", "resume_step", "check", "plugins")
_CHECKPOINT = re.compile(r"step_(\d+)\.pt")


def split_resume(text: str | None) -> tuple[str | None, int | None]:
    """The run directory (or "auto") that is typed behind `resume=`, and the step if a checkpoint is typed.

    >>> split_resume("runs/a/checkpoints/step_00000500.pt"), split_resume("null")
    (('runs/a', 500), (None, None))

    Raises InvalidConfig for words that name no run.
    """
    try:
        value = text and str(OmegaConf.create({"resume": text.strip("'\"")}).resume)
    except OmegaConfBaseException as error:
        raise _wrong(text, str(error).splitlines()[0]) from error
    if value in (None, "", "null", "false", "False", "auto"):
        return ("auto" if value == "auto" else None), None
    if value.lower() in ("true", "1", "yes", "on", "last", "latest", "newest", "best") and not Path(value).exists():
        raise _wrong(text, f"{value} names no run")
    path = Path(value)
    step = _CHECKPOINT.fullmatch(path.name)
    if step and path.parent.name == "checkpoints":
        return str(path.parent.parent), int(step[1])
    return value, None


def saved_config(folder: Path) -> dict[str, Any]:
    """The config that a run was started with. Raises InvalidConfig when the folder is no run's, BadConfig, BadData."""
    if not os.path.lexists(folder / "config.yaml"):
        what = "has no config.yaml: it is no run directory" if folder.is_dir() else "does not exist"
        raise _wrong(str(folder), f"{folder} {'is no folder' if folder.is_file() else what}")
    return with_later_keys(read_config(folder))


def merge_saved_config(folder: Path, overrides: Sequence[str], composer: Composer) -> Composed:
    """The saved config of a run, and over it what the command line says; with Hydra's node as composed now.

    What that changes is judged by the run itself, which knows how far it is.
    """
    saved = {key: value for key, value in saved_config(folder).items() if key != "facts"}  # facts are looked at anew

    def over_saved(composed: DictConfig, values: Sequence[Override]) -> DictConfig:
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        merged = saved | {key: plain[key] for key in _OF_THE_START}
        for path in _chosen_now(overrides, composed, composer):  # whole: what another model took means nothing here
            _put(merged, path, _at(plain, path))
        for path, value in leaves({key: node for key, node in plain.items() if key != "hydra"}):
            source = _source(path, value)  # trainer.duration, for scheduler.total_steps: a saved config has values only
            if source and _at(merged, path) is not None and _at(merged, path) == _at(merged, source):
                _put(merged, path, value)
        for key in (override.key_or_group for override in values):  # an argument that is newer than the run
            group = key.split(".")[0]
            if _at(merged, key) is None and _at(plain, f"{group}._target_") == _at(merged, f"{group}._target_"):
                _put(merged, key, _at(plain, key))
        config = OmegaConf.create(merged)
        config.hydra = composed.hydra
        OmegaConf.set_struct(config, True)
        return config

    composed = composer.compose_or_explain([*_choices(folder, saved, composer), *overrides], base=over_saved)
    if composed.config is not None:
        composed.config.resume = None
    return composed


def _choices(folder: Path, saved: Mapping[str, Any], composer: Composer) -> list[str]:
    """The options that the run was started with, as overrides: which keys there are follows from them."""
    path = folder / ".hydra" / "hydra.yaml"
    try:
        found = _at(read_yaml(path), "hydra.runtime.choices")
    except (OSError, ValueError, BadData):
        return []
    items = found.items() if isinstance(found, Mapping) else ()
    choices = {group: option for group, option in items if _at(saved, f"{group}._target_")}
    return [f"{group}={option}" for group, option in choices.items() if option in composer.groups.get(group, ())]


def _chosen_now(overrides: Sequence[str], composed: DictConfig, composer: Composer) -> list[str]:
    """The keys that the options of the command line set: whole groups, or what an experiment or debug option names."""
    typed = [text.partition("=")[0].lstrip("+~") for text in overrides if "{" not in text]
    groups = [group for group in typed if group in composer.groups and not group.startswith("hydra/")]
    keys = [group for group in groups if group in composed]
    for default in composer.defaults(overrides):
        path = default.config_path or ""
        if path.partition("/")[0] in groups and path.partition("/")[0] not in composed:
            found: Any = composer.repository.load_config(path)
            chosen = [entry for entry in found.defaults_list or () if isinstance(entry, GroupDefault)]
            keys += [str(entry.group).lstrip("/") for entry in chosen if entry.is_override()]
            keys += [key for key, _ in leaves(OmegaConf.to_container(found.config, resolve=False))]  # type: ignore[arg-type]
    return keys


def _source(path: str, value: Any) -> str:
    """The key whose value a leaf of the YAML files takes; "" where it has its own.

    >>> _source("scheduler.total_steps", "${trainer.duration}"), _source("data.val.batch_size", "${..batch_size}")
    ('trainer.duration', 'data.batch_size')
    """
    found = re.fullmatch(r"\$\{(\.*)([\w.]+)\}", str(value))
    return ".".join([*(path.split(".")[: -len(found[1])] if found[1] else ()), found[2]]) if found else ""


def _at(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _put(node: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value


def _wrong(text: str | None, what: str) -> InvalidConfig:
    expected, instead = "a run directory, a checkpoint in one, or auto", "resume=auto"
    return invalid_run([Problem("resume", what, str(text), expected, by(f"resume={text}"), instead=instead)], [])


def has_checkpoints(folder: Path) -> bool:
    try:
        return any((folder / "checkpoints").glob("step_*.pt"))
    except OSError:  # the check tells what is wrong with such a folder
        return False


def is_finished(folder: Path, config: Mapping[str, Any] | DictConfig) -> bool:
    """Whether the run there is done, and done with this config: a longer duration is something to do."""
    if read_status(folder).state != "DONE" or not (folder / "config.yaml").is_file():
        return False
    saved = saved_config(folder)
    now: Any = resolve(config, saved.get("facts") or {}).config if isinstance(config, DictConfig) else config
    return _same(saved, {**now, "init_from": saved.get("init_from")})  # the weights that it began with count no more


def newest_unfinished(runs: Path, config: Mapping[str, Any]) -> Path | None:
    """The latest folder below `runs` that was started with this config and is not done; None when there is none."""
    for path in sorted(runs.glob("*/config.yaml"), key=lambda path: path.parent.name, reverse=True):
        try:
            if read_status(path.parent).state != "DONE" and _same(saved_config(path.parent), config):
                return path.parent
        except (BadConfig, BadData):
            continue  # torn at its very start, or no run's: nothing of it can be continued
    return None


def _same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two configs describe the same run, however it is watched and spread over processes."""
    accepted = compare.FILE_FACTS if (now.get("data") or {}).get("allow_changed") else ()
    found = [pair for pair in compare.differences(_kept(saved), _kept(now)) if pair.key not in accepted]
    left_open = [f"trainer.{name}" for name in CHOSEN if now["trainer"].get(name) == "auto"]  # the run itself compares
    return not any(compare.changes_result(pair.key, now) for pair in found if pair.key not in left_open)


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _OF_THE_START}
