"""The check that every run passes before anything exists on disk: composed config in, resolved config out.

It has stages, each of which needs more than the one before: the config alone, without torch; the data, for the facts;
the signatures of all parts; the rules; the parts themselves. The first stage that finds something ends the check.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.build import FactsCache, facts_of
from plainloop.config.check import machine, rules, schema, teacher
from plainloop.config.check.constructor_errors import finding_from_error, without_key
from plainloop.config.check.dry_run import Refusal, dry_run
from plainloop.config.check.findings import CheckContext, Finding, run_rules
from plainloop.config.check.meta_model import ModelSummary
from plainloop.config.compose.origin import Origin
from plainloop.config.durations import clock_of
from plainloop.config.explain.locate import locate
from plainloop.config.explain.problems import Problem, invalid_run
from plainloop.config.explain.suggest import as_override
from plainloop.config.explain.wrong_options import chosen_twice
from plainloop.config.groups import OPEN_GROUPS
from plainloop.config.nodes import Resolved, leaves, resolve
from plainloop.config.targets import is_no_plugin
from plainloop.config.types import Parameter
from plainloop.errors import RunError
from plainloop.system import storage

_OF_HYDRA = ("hydra._internal.core_plugins.", "hydra_plugins.")
_FILE_NAME = re.compile(r"\.?[\w=,+@%:()\[\]{}][\w.=,+@%:()\[\]{} -]{0,199}")
_PER_DEVICE = "batch_size_per_device"


@dataclass(frozen=True)
class Checked:
    config: dict[str, Any]  # resolved and plain, with the node `facts`; durations are still text
    warnings: list[str]
    ranks: int
    model: ModelSummary
    folder: Path | None = None  # where it will be written, beside earlier runs


@dataclass
class CheckCache:
    """What the jobs of a sweep share: facts by data config, and what was built."""

    facts: FactsCache = field(default_factory=dict)
    refusals: dict[str, Refusal | None] = field(default_factory=dict)


def check(
    config: DictConfig,
    *,
    origin: Origin,
    ranks: int | None = None,
    launcher: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    cache: CheckCache | None = None,
    known: Sequence[Problem] = (),
) -> Checked:
    """Checks one run.

    Args:
        ranks: number of processes; None asks the environment, the launcher and `trainer.devices`.
        known: problems found while composing; they are reported with those of the first stage.

    Raises InvalidConfig with all problems of a stage. Torch is imported once the first stage finds nothing.
    """
    cache, resolved = cache or CheckCache(), resolve(config)
    context = _context(resolved.config, origin, folder)

    def stop_at(findings: Sequence[Finding], known: Sequence[Problem] = ()) -> None:
        if findings or known:
            raise invalid_run([*known, *locate(findings, origin)], origin.overrides)

    early, warnings = run_rules(rules.EARLY, context)
    findings = [*_without_torch(resolved, config, context), *early]
    if findings == [teacher.NOT_GIVEN] and not known:
        findings = []  # the data may have no labels, which a teacher is for: said below
    stop_at(findings, [*map(origin.located, known), *chosen_twice(origin.overrides)])

    import numpy  # noqa: F401  # before torch, which imports it from C and loses a Ctrl-C that comes meanwhile

    ranks = ranks or machine.ranks_of(context.config, launcher)
    if _PER_DEVICE in context.config["data"]:
        config = _with_global_batch_size(config, ranks)
        context = replace(context, config=resolve(config).config)
    context = replace(context, ranks=ranks)
    facts, findings = _facts(context, cache)
    if facts is not None:
        taught, findings = teacher.teacher_facts(context, facts)
        stop_at(findings)
        resolved = resolve(config, facts | taught)
        context = replace(context, config=resolved.config)
        findings = [Finding(key, message) for key, message in resolved.broken.items()]
    for group in (group for group in OPEN_GROUPS if group != "data"):
        findings += schema.group_matches(group, context)
    stop_at(findings)

    here = machine.HARDWARE if machine.is_local(launcher) else ()
    found, more = run_rules((*rules.BEFORE_THE_CLOCK, *here), context)
    if not any(finding.key == "data.batch_size" and "larger" in finding.what for finding in found):
        context = replace(context, clock=clock_of(context.config))
        late, cautions = run_rules(rules.LATE, context)
        found, more = found + late, more + cautions
    stop_at(found)
    model, findings = dry_run(context, cache.refusals)
    stop_at(findings)
    return Checked(context.config, warnings + more, ranks, model, folder)


def check_data(config: DictConfig, origin: Origin, known: Sequence[Problem]) -> dict[str, Any]:
    """The resolved config of a command that needs the data alone; it has no facts. Raises InvalidConfig."""
    if _PER_DEVICE in config.data:
        config = _with_global_batch_size(config, 1)
    resolved = resolve(config)
    context = _context(resolved.config, origin, None)
    findings = list(_without_torch(resolved, config, context)) or list(schema.group_matches("data", context))
    if findings or known:
        known = [*map(origin.located, known), *chosen_twice(origin.overrides)]
        raise invalid_run([*known, *locate(findings, origin)], origin.overrides)
    return context.config


def check_evaluation(config: DictConfig, origin: Origin, known: Sequence[Problem]) -> dict[str, Any]:
    """The resolved config, with facts, for a command that trains nothing: no rule counts. Raises InvalidConfig."""
    config = _with_global_batch_size(config, 1) if _PER_DEVICE in config.data else config
    resolved = resolve(config)
    context = _context(resolved.config, origin, None)
    findings = list(_without_torch(resolved, config, context))
    known = [*map(origin.located, known), *chosen_twice(origin.overrides)]
    if not findings and not known:
        facts, findings = _facts(context, CheckCache())
        if facts is not None:
            context = replace(context, config=resolve(config, facts).config)
            findings = [one for group in ("model", "task") for one in schema.group_matches(group, context)]
    if findings or known:
        raise invalid_run([*known, *locate(findings, origin)], origin.overrides)
    return context.config


def hydra_is_right(config: DictConfig, plugins: Sequence[str]) -> Iterator[Finding]:
    """Hydra's own node: it builds only what is Hydra's or ours, and what becomes part of a path is a name."""
    expected = "a launcher or sweeper: hydra/launcher=..."
    for part in ("launcher", "sweeper", "callbacks"):
        try:
            node: Any = OmegaConf.to_container(config.hydra[part]) or {}
        except (OmegaConfBaseException, ValueError) as error:
            yield Finding(f"hydra.{part}", str(error).splitlines()[0])
            continue
        if part == "callbacks":
            yield from schema.targets_are_allowed(node, "hydra.callbacks", plugins)
        elif not str(node.get("_target_", _OF_HYDRA[0])).startswith(_OF_HYDRA):
            yield Finding(f"hydra.{part}._target_", "is no plugin of Hydra", str(node["_target_"]), expected)
    for key in ("hydra.job.name", "hydra.output_subdir"):
        try:
            name = OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            yield Finding(key, str(error).splitlines()[0])
            continue
        if name is not None and not _FILE_NAME.fullmatch(str(name)):
            yield Finding(key, "is no file name", repr(name), "letters, digits and =,._-+, no slash")


def _context(config: dict[str, Any], origin: Origin, folder: Path | None) -> CheckContext:
    named = config.get("plugins")
    plugins = map(str, named) if isinstance(named, list) else ()
    saved = origin.saved and storage.read_json(origin.saved.parent / "environment.json")
    return CheckContext(
        config,
        plugins=tuple(name for name in plugins if not is_no_plugin(name)),
        plugins_file=Path(place.file) if named and (place := origin.place_of("plugins")) else Path(),
        is_typed=lambda key: bool(origin.override_of(key)),
        folder=folder,
        began_on=(saved or {}).get("ranks"),
    )


def _without_torch(resolved: Resolved, config: DictConfig, context: CheckContext) -> Iterator[Finding]:
    now = resolved.config
    for key in resolved.missing:
        given = Finding(key, "must be given", "???", "a value", f"{key}=...")
        yield teacher.NOT_GIVEN if key == teacher.KEY else given
    for key, message in resolved.broken.items():
        wanted = message.partition("':")[0].strip("'${}")
        yield Finding(key, message, unknown=wanted, keys=[name for name, _ in leaves(now)])
    yield from schema.settings_match(context)
    yield from schema.open_groups_are_there(context)
    each = now["data"].get(_PER_DEVICE, 1) if isinstance(now.get("data"), Mapping) else 1
    yield from schema.value_fits(Parameter(_PER_DEVICE, int, required=False), each, f"data.{_PER_DEVICE}")
    yield from _plugins_are_the_persons_own(context)
    if "hydra" in config:
        yield from hydra_is_right(config, context.plugins)


def _with_global_batch_size(config: DictConfig, ranks: int) -> DictConfig:
    """`data.batch_size_per_device` becomes the global batch size of this number of ranks, and is gone."""
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config, False)
    each = config.data.pop(_PER_DEVICE)
    if isinstance(each, int):
        config.data.batch_size = each * ranks
    return config


def _facts(context: CheckContext, cache: CheckCache) -> tuple[dict[str, Any] | None, list[Finding]]:
    if findings := list(schema.group_matches("data", context)):
        return None, findings
    try:
        return facts_of(context.config["data"], plugins=context.plugins, cache=cache.facts), []
    except ValueError as error:
        return None, [finding_from_error(error, context.config["data"], "data", context)]
    except (TypeError, OSError, RunError) as error:
        stated = re.match(r"data\.[\w.]+(?=[:=])", str(error))
        key = stated[0] if stated else "data.root" if context.is_typed("data.root") else "data"
        got = as_override(context.get(key)) if str(error).removeprefix(f"{key}: ").startswith(f"{key}=") else ""
        return None, [Finding(key, without_key(str(error), key, got), got, instead=getattr(error, "hint", ""))]


def _plugins_are_the_persons_own(context: CheckContext) -> Iterator[Finding]:
    """A recipe, or a config that came with a checkpoint, may not widen the allowlist."""
    named = context.get("plugins")
    if not isinstance(named, list) or not named:
        return
    wrong = [str(name) for name in named if is_no_plugin(str(name))]
    own = ",".join(str(name) for name in named if str(name) not in wrong)
    if wrong:
        expected = "packages of your own; parts of torch, timm and plainloop are allowed as they are"
        yield Finding("plugins", "names no package of yours", ", ".join(wrong), expected, f"plugins=[{own}]")
    elif not context.is_typed("plugins") and context.plugins_file.parent.name != "local":
        what = "can be given on the command line or in conf/local only"
        yield Finding("plugins", what, str(named), instead=f"plugins=[{own}]")
