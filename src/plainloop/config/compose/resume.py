"""Which run a `resume=` means, and whether there is anything left of it to do. Torch is not needed to say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.default_element import GroupDefault
from omegaconf import DictConfig, OmegaConf, open_dict

from plainloop.config import compare
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import InvalidConfig, Problem, invalid_run
from plainloop.config.resolve import leaves, resolve
from plainloop.config.settings import SETTINGS, with_later_keys
from plainloop.run_dir.status import read_status

# What no run keeps: it is said anew at each start.
_OF_THE_START = ("resume", "check")


def saved_config(folder: Path) -> dict[str, Any]:
    """The config that a run was started with. Raises InvalidConfig when the folder is no run's."""
    path = folder / "config.yaml"
    if not path.is_file():
        what = "has no config.yaml: it is no run directory" if folder.is_dir() else "does not exist"
        what = "is no folder" if folder.exists() and not folder.is_dir() else what
        given, expected = f"command line override resume={folder}", "a run directory, or auto"
        raise invalid_run(
            [Problem("resume", f"{folder} {what}", str(folder), expected, given, instead="resume=auto")], []
        )
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise invalid_run([Problem("resume", f"{path} holds no config")], [])
    return with_later_keys(found)


def continued(
    folder: Path, overrides: Sequence[str], composed: DictConfig, composer: Composer
) -> tuple[DictConfig, Origin]:
    """The saved config of a run under Hydra's node of the composed one, and over it what the command line says.

    What that changes is judged by the run itself, which knows how far it is.
    """
    config = OmegaConf.create(saved_config(folder))
    config.pop("facts", None)  # looked at anew
    for group in (name for name in SETTINGS if name):  # keys that this version has and the one that wrote it had not
        config[group] = OmegaConf.merge(OmegaConf.to_container(composed[group], resolve=False), config[group])
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~").partition("@")[0]
        if key in _OF_THE_START or key.split(".")[0] == "hydra" or key.startswith("hydra/"):
            continue
        key = key.partition("/")[0]
        if key in composer.groups and "{" not in text:
            keys = _keys_of_option(key, overrides, composer) if key not in composed else [key]
            for part in keys:  # whole: what another model took means nothing to this one
                OmegaConf.update(config, part, OmegaConf.select(composed, part), merge=False, force_add=True)
            continue
        before, now = OmegaConf.select(config, key), OmegaConf.select(composed, key)
        for follower in _followers(composed, key):  # scheduler.total_steps, where trainer.duration was its value
            if OmegaConf.select(config, follower) == before:
                OmegaConf.update(config, follower, now)
        OmegaConf.update(config, key, now, force_add=True)
    with open_dict(config):
        config.resume, config.check = None, composed.check
        config.plugins = composed.plugins  # a saved config may not widen the allowlist
        config.hydra = composed.hydra
    return config, Origin(overrides, composer=composer, saved=folder / "config.yaml")


def _keys_of_option(group: str, overrides: Sequence[str], composer: Composer) -> list[str]:
    """What an option for the whole config (experiment=..., debug=...) sets: keys, and groups that it chooses."""
    keys: list[str] = []
    for default in composer.defaults(overrides):
        if default.config_path is not None and default.config_path.startswith(f"{group}/"):
            found = composer.repository.load_config(default.config_path)
            if found is not None:
                chosen = [entry for entry in found.defaults_list or () if isinstance(entry, GroupDefault)]
                keys += [str(entry.group).lstrip("/") for entry in chosen if entry.is_override()]
                keys += [key for key, _ in leaves(OmegaConf.to_container(found.config, resolve=False))]  # type: ignore[arg-type]
    return keys


def _followers(composed: DictConfig, key: str) -> list[str]:
    """The leaves that the config files define as this key's value: a saved config holds values only."""
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    return [path for path, value in leaves(raw) if value == f"${{{key}}}"]


def is_finished(folder: Path, config: Mapping[str, Any] | DictConfig) -> bool:
    """Whether the run there is done, and done with this config: a longer duration is something to do."""
    if read_status(folder).state != "DONE" or not (folder / "config.yaml").is_file():
        return False
    saved = saved_config(folder)
    now = resolve(config, saved.get("facts") or {}).config if isinstance(config, DictConfig) else config
    return same(saved, now)


def newest_unfinished(runs: Path, config: Mapping[str, Any]) -> Path | None:
    """The latest folder below `runs` that was started with this config and is not done; None when there is none."""
    found = sorted(runs.glob("*/config.yaml"), key=lambda path: path.parent.name, reverse=True)
    for path in found:
        if read_status(path.parent).state == "DONE":
            continue
        try:
            saved = saved_config(path.parent)
        except (InvalidConfig, yaml.YAMLError):
            continue  # torn at its very start: nothing of it is worth going on with
        if same(saved, config):
            return path.parent
    return None


def same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two configs describe the same run, however it is watched and shared out."""
    return all(compare.harmless(pair.key) for pair in compare.differences(_kept(saved), _kept(now)))


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _OF_THE_START}
