"""The check that every run passes before anything exists on disk: composed config in, resolved config and plan out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plainloop.config.check import machine, rules, schema
from plainloop.config.check.findings import Case, judge
from plainloop.config.check.plan import Plan, plan_of
from plainloop.config.check.probe import Probed, probe
from plainloop.config.check.trial import Tried, trial
from plainloop.config.compose.origin import Origin
from plainloop.config.durations import clock_of
from plainloop.config.explain.problems import EVERYWHERE, Problem, invalid_run
from plainloop.config.explain.suggest import nearest_key
from plainloop.config.explain.wrong_options import chosen_twice
from plainloop.config.facts import Cache, facts_of
from plainloop.config.resolve import PENDING, Resolved, leaves, resolve
from plainloop.config.settings import SETTINGS
from plainloop.config.targets import is_no_plugin
from plainloop.errors import RunError

# Schedules are pure arithmetic: their signatures are read without torch.
_TORCH_FREE = "plainloop.schedule."


@dataclass(frozen=True)
class Checked:
    config: dict[str, Any]  # resolved and plain, with the node `facts`; durations are still text
    warnings: list[str]
    plan: Plan


@dataclass
class Seen:
    """What the jobs of a sweep share: facts by data config, models by model config, and what other parts refuse."""

    facts: Cache = field(default_factory=dict)
    models: dict[str, Probed] = field(default_factory=dict)
    tried: Tried = field(default_factory=dict)


def check(
    config: DictConfig,
    *,
    origin: Origin,
    ranks: int | None = None,
    launcher: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    seen: Seen | None = None,
    known: Sequence[Problem] = (),
) -> Checked:
    """Checks one run.

    Args:
        config: as composed; Hydra's own node is left aside.
        origin: where its keys come from, for the messages.
        ranks: number of processes; None asks the environment, the launcher and `trainer.devices`.
        folder: where it will be written.
        known: problems found while composing; they are reported with the rest.

    Raises InvalidConfig with every problem. Imports torch only when what can be judged without it is right, or when
    what is left of the command line cannot be judged without it.
    """
    seen = seen or Seen()
    first = resolve(config)
    named = first.config.get("plugins")
    listed = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    plugins = [name for name in listed if not is_no_plugin(name)]
    problems = [
        *(origin.located(problem) for problem in known),
        *_without_torch(first, config, origin, plugins, folder),
    ]
    if problems and not _something_left(origin, problems, first.config):
        raise invalid_run(problems, origin.overrides)
    found, warnings, config_now, plan = _with_torch(
        config, first, origin, plugins, ranks, launcher, seen, blamed={p.key for p in problems}
    )
    problems += [problem for problem in found if problem not in problems]
    if problems or plan is None:
        raise invalid_run(problems, origin.overrides)
    return Checked(config_now, warnings, plan)


def _without_torch(
    first: Resolved, config: DictConfig, origin: Origin, plugins: Sequence[str], folder: Path | None
) -> list[Problem]:
    now = first.config
    problems = [
        Problem(key, "must be given", "???", "a value", origin.given_by(key), instead=f"{key}=...")
        for key in first.missing
    ]
    keys = [key for key, _ in leaves(now)]
    for key, message in first.broken.items():
        wanted = message.partition("':")[0].strip("'${}")
        near = nearest_key(wanted, keys)
        problems.append(Problem(key, message, given_by=origin.given_by(key), meant=near[0] if near else ""))
    missing = set(first.missing)
    for path, kind in SETTINGS.items():
        node = now if path == "" else now.get(path, {})
        also = (*schema.OPEN_GROUPS, "trainer", "checkpoint", "facts") if path == "" else ()
        found = schema.settings_problems(kind, node, path, origin, also=also)
        problems += [problem for problem in found if problem.key not in missing]
    for group in schema.OPEN_GROUPS:
        if group not in now:
            problems.append(Problem(group, "is missing", expected="a group with a _target_", instead=f"{group}=..."))
        elif isinstance(now[group], Mapping):
            problems += schema.target_problems(now[group], group, origin, plugins)
    each = now["data"].get("batch_size_per_device", 1) if isinstance(now.get("data"), Mapping) else 1
    if each is not PENDING and (not isinstance(each, int) or isinstance(each, bool)):
        key, words = "data.batch_size_per_device", ("wrong type or value", schema.type_name(each), "a whole number")
        problems.append(Problem(key, *words, given_by=origin.given_by(key)))
    problems += _plugins_are_the_persons_own(now, origin)
    problems += chosen_twice(origin.overrides)
    problems += hydra_builds_only_its_own(config, origin, plugins)
    if isinstance(now.get("scheduler"), Mapping):
        found = schema.group_problems(
            "scheduler", now["scheduler"], origin, plugins, only=lambda t: t.startswith(_TORCH_FREE)
        )
        problems += [problem for problem in found if problem.key not in missing]
    blamed = {problem.key for problem in problems}
    early, _ = judge(rules.EARLY, Case(now, origin, ranks=1, folder=folder))
    return problems + [problem for problem in early if problem.key not in blamed]


def _with_torch(
    config: DictConfig,
    first: Resolved,
    origin: Origin,
    plugins: Sequence[str],
    ranks: int | None,
    launcher: Mapping[str, Any] | None,
    seen: Seen,
    blamed: set[str],
) -> tuple[list[Problem], list[str], dict[str, Any], Plan | None]:
    """Signatures, facts, and the rules that need them. What is blamed already is not judged again."""
    if not blamed & {"trainer.devices", "device", "data.batch_size_per_device"}:
        ranks = ranks or machine.ranks_of(first.config, launcher)
        if "batch_size_per_device" in first.config.get("data", {}):
            config = _global_batch_size(config, ranks)
            first = resolve(config)
    now = first.config
    problems = _fresh(schema.group_problems("data", now["data"], origin, plugins), blamed) if "data" in now else []
    if ranks is None or problems or any(key.split(".")[0] == "data" for key in blamed):
        # The rest can be judged as far as it does not follow from the data.
        problems += _open_groups(now, origin, plugins, blamed)
        return problems, [], now, None
    try:
        facts = facts_of(now["data"], plugins=plugins, cache=seen.facts)
    except (TypeError, ValueError, OSError, RunError) as error:
        hint = getattr(error, "hint", "")
        blame = "data.root" if origin.override_of("data.root") else "data"
        problems.append(Problem("data", str(error), given_by=origin.given_by(blame), instead=hint))
        problems += _open_groups(now, origin, plugins, blamed)
        return problems, [], now, None
    second = resolve(config, facts)
    now = second.config
    problems += [
        Problem(key, message, given_by=origin.given_by(key))
        for key, message in second.broken.items()
        if key not in blamed
    ]
    problems += _open_groups(now, origin, plugins, blamed)
    if problems or blamed:
        return problems, [], now, None
    return _rules_and_plan(now, origin, plugins, ranks, launcher, seen)


def _global_batch_size(config: DictConfig, ranks: int) -> DictConfig:
    """`data.batch_size_per_device` becomes the global batch size of this number of ranks, and is gone."""
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config, False)
    each = config.data.pop("batch_size_per_device")
    if isinstance(each, int):
        config.data.batch_size = each * ranks
    return config


def _rules_and_plan(
    now: dict[str, Any],
    origin: Origin,
    plugins: Sequence[str],
    ranks: int,
    launcher: Mapping[str, Any] | None,
    seen: Seen,
) -> tuple[list[Problem], list[str], dict[str, Any], Plan | None]:
    case = Case(now, origin, ranks)
    problems, warnings = judge(rules.BEFORE_THE_CLOCK, case)
    _, early_warnings = judge(rules.EARLY, case)
    warnings += early_warnings
    local = "slurm" not in str((launcher or {}).get("_target_", "")).lower()
    if local:
        found, more = judge(machine.HARDWARE, case)
        problems, warnings = problems + found, warnings + more
    if any(problem.key == "data.batch_size" and "larger" in problem.what for problem in problems):
        return problems, warnings, now, None
    clock = clock_of(now)
    found, more = judge(rules.LATE, Case(now, origin, ranks, clock=clock))
    problems, warnings = problems + found, warnings + more
    probed, found = probe(now, origin, plugins, seen.models)
    problems += found
    if not problems:
        problems = trial(now, clock, origin, plugins, probed.model, seen.tried)
    if problems:
        return problems, warnings, now, None
    return [], warnings, now, plan_of(now, clock, ranks, probed, warnings)


def _open_groups(now: Mapping[str, Any], origin: Origin, plugins: Sequence[str], blamed: set[str]) -> list[Problem]:
    problems = []
    for group in schema.OPEN_GROUPS:
        if group != "data" and group in now:
            problems += schema.group_problems(group, now[group], origin, plugins)
    return _fresh(problems, blamed)


def _fresh(problems: Sequence[Problem], blamed: set[str]) -> list[Problem]:
    return [problem for problem in problems if problem.key not in blamed]


def _something_left(origin: Origin, problems: Sequence[Problem], now: Mapping[str, Any]) -> bool:
    """Whether an override remains that only a signature can judge: an added key of an open group, or a value of another
    type than the one in our YAML."""
    blamed = {problem.key for problem in problems}
    values = dict(leaves(now))
    for text in origin.overrides:
        name, _, _ = text.partition("=")
        key = name.lstrip("+~")
        if key in blamed or key.split(".")[0] not in schema.OPEN_GROUPS or "." not in key or EVERYWHERE.startswith(key):
            continue
        place = origin.written(key)
        value = values.get(key)
        if value is not PENDING and (place is None or (place.value is not None and not _alike(place.value, value))):
            return True
    return False


def _alike(written: Any, value: Any) -> bool:
    numbers = isinstance(written, int | float) and isinstance(value, int | float)
    return type(written) is type(value) or (numbers and not isinstance(written, bool) and not isinstance(value, bool))


def _plugins_are_the_persons_own(now: Mapping[str, Any], origin: Origin) -> list[Problem]:
    """A recipe, or a config that came with a checkpoint, may not widen the allowlist."""
    named = now.get("plugins")
    if not named:
        return []
    if isinstance(named, list) and (wrong := [name for name in named if is_no_plugin(str(name))]):
        rest = ",".join(str(name) for name in named if name not in wrong)
        expected = "packages of your own; parts of torch, timm and plainloop are allowed as they are"
        given = origin.given_by("plugins")
        return [
            Problem("plugins", "names no package of yours", ", ".join(wrong), expected, given, "", f"plugins=[{rest}]")
        ]
    if origin.override_of("plugins"):
        return []
    place = origin.place_of("plugins")
    if place is not None and Path(place.file).parent.name == "local":
        return []
    return [
        Problem(
            "plugins",
            "can be given on the command line or in conf/local only",
            str(now["plugins"]),
            given_by=str(place or ""),
            instead=f"plugins=[{','.join(map(str, now['plugins']))}]",
        )
    ]


def hydra_builds_only_its_own(config: DictConfig, origin: Origin, plugins: Sequence[str]) -> list[Problem]:
    """Hydra instantiates its launcher, sweeper and callbacks by `_target_` too."""
    if "hydra" not in config:
        return []
    problems = []
    for part in ("launcher", "sweeper"):
        target = str(OmegaConf.select(config.hydra, f"{part}._target_", default=""))
        if target and not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
            key = f"hydra.{part}._target_"
            problems.append(
                Problem(
                    key,
                    "is no plugin of Hydra",
                    target,
                    "a launcher or sweeper: hydra/launcher=...",
                    origin.given_by(key),
                )
            )
    callbacks: Any = OmegaConf.to_container(config.hydra.callbacks) or {}
    problems += schema.target_problems(callbacks, "hydra.callbacks", origin, plugins)
    return problems
