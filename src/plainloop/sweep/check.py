"""Every job of a sweep, composed and checked before the first one exists."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.check.check import CheckCache, Checked, check, hydra_is_right
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.locate import locate
from plainloop.config.explain.problems import BadJob, InvalidConfig, Problem, invalid_run, invalid_sweep
from plainloop.config.explain.wrong_options import by
from plainloop.sweep.local.gpu_pool import pool_problems
from plainloop.sweep.paths import file_problem, folder_problem, stays_inside, unreadable

_NAMES = ("hydra.sweep.subdir", "hydra.job.name", "hydra.output_subdir")  # each becomes part of a path


@dataclass(frozen=True)
class Job:
    overrides: tuple[str, ...]
    folder: Path
    checked: Checked
    frozen: bytes  # the pickled DictConfig, Hydra's own node included: a hundredth of its size in memory


@dataclass(frozen=True)
class Sweep:
    master: DictConfig  # as Hydra's sweeper and launcher take it
    jobs: list[Job]  # empty when the sweeper is not Hydra's own: it decides later what to try


def check_sweep(composer: Composer, overrides: Sequence[str], known: Sequence[Problem] = ()) -> Sweep:
    """Raises InvalidConfig with all problems of all jobs; makes nothing."""
    problems = list(known)
    master = _master(composer, overrides)
    if master is not None:
        found = list(hydra_is_right(master, list(master.plugins or ())))
        problems += locate(found, Origin(overrides, composer=composer))
        foreign = bool(found) or master.hydra.sweeper._target_ != _target_of(BasicSweeper)
        if foreign and problems:
            raise invalid_run(problems, overrides)
        if foreign:
            return Sweep(master, [])
    hydra_overrides, jobs = _expand(composer, overrides, master, problems)
    if problems:
        raise invalid_run(problems, overrides)
    cache = CheckCache()
    good: list[Job] = []
    bad: list[BadJob] = []
    for number, job_overrides in enumerate(jobs):
        try:
            good.append(_check_job(composer, master, number, hydra_overrides, job_overrides, cache, good))
        except InvalidConfig as error:
            bad.append(BadJob(number, tuple(job_overrides), error.problems))
    if bad:
        raise invalid_sweep(bad, len(jobs))
    assert master is not None
    launcher: Any = OmegaConf.to_container(master.hydra.launcher)
    if str(launcher["_target_"]).endswith(".GpuPoolLauncher"):
        origin, configs = Origin(overrides, composer=composer), [job.checked.config for job in good]
        problems = pool_problems(launcher["gpus_per_job"], launcher["slots"], configs, origin)
        if problems:
            raise invalid_run(problems, overrides)
    return Sweep(master, good)


def check_late(composer: Composer, master: DictConfig, overrides: Sequence[str]) -> Job:
    """One more job of a sweep that runs already. Raises InvalidConfig."""
    return _check_job(composer, master, 0, list(master.hydra.overrides.hydra), list(overrides), CheckCache(), [])


def _master(composer: Composer, overrides: Sequence[str]) -> DictConfig | None:
    try:
        master = composer.compose(overrides, RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException):
        return None  # some override is wrong: it is part of the jobs too, and is explained there
    with open_dict(master):
        master.hydra.mode = RunMode.MULTIRUN
    if problems := unreadable(master, ("hydra.sweep.dir",)):
        raise invalid_run(problems, overrides)
    str(master.hydra.sweep.dir)  # the time of day in its name is read now, and kept for all jobs
    return master


def _expand(
    composer: Composer, overrides: Sequence[str], master: DictConfig | None, problems: list[Problem]
) -> tuple[list[str], list[list[str]]]:
    """Hydra's overrides, and those of each job: the product of all lists, the last one fastest."""
    space = (OmegaConf.select(master, "hydra.sweeper.params") or {}) if master is not None else {}
    parser = OverridesParser.create(config_loader=composer.loader)
    ours: list[Override] = []
    hydras: list[Override] = []
    for text in [*(f"{key}={value}" for key, value in space.items()), *overrides]:
        try:
            parsed = parser.parse_overrides([text])[0]  # unlike parse_override it tells glob() where the options are
        except HydraException:
            problems += composer.explain([text]).problems
            continue
        if parsed.is_sweep_override() and (problem := _no_list(parsed)):
            problems.append(problem)
        (hydras if parsed.is_hydra_override() else ours).append(parsed)
    if problems:
        return [], []
    jobs = BasicSweeper.split_arguments(ours, None)[0]
    return [parsed.input_line for parsed in hydras if parsed.input_line], jobs


def _no_list(parsed: Override) -> Problem | None:
    """What is wrong with the values of a sweep: each must be known before the first is tried, and there must be one."""
    key, given, value = parsed.key_or_group, by(parsed.input_line), str(parsed.input_line).partition("=")[2]
    if parsed.is_hydra_override():
        what, expected = "is one for the whole sweep", "one value"
    elif not parsed.is_discrete_sweep():
        what, expected = (
            "has no list of values",
            "a list: 0.1,0.2 or range(0.1,0.4,0.1); only searching sweepers take more",
        )
    elif not any(True for _ in parsed.sweep_string_iterator()):
        what, expected = "has no value to try", "a list of one value at least: 1,2,3 or range(1,4)"
    else:
        return None
    return Problem(key, what, value, expected, given)


def _check_job(
    composer: Composer,
    master: DictConfig | None,
    number: int,
    hydra_overrides: list[str],
    overrides: list[str],
    cache: CheckCache,
    earlier: list[Job],
) -> Job:
    composed = composer.compose_or_explain([*hydra_overrides, *overrides])
    config = composed.config
    if config is None:
        raise invalid_run(composed.problems, overrides)
    if master is not None:
        OmegaConf.copy_cache(from_config=master, to_config=config)  # one time of day for the whole sweep
    with open_dict(config):
        config.hydra.job.num, config.hydra.job.id = number, str(number)
        config.hydra.mode = RunMode.MULTIRUN
        config.hydra.job.override_dirname = _dirname(overrides, config.hydra.job.config.override_dirname)
    HydraConfig.instance().set_config(config)
    problems = [*composed.problems, *unreadable(config, ("hydra.sweep.dir", *_NAMES))]
    if len(problems) > len(composed.problems):
        raise invalid_run(problems, overrides)
    root = Path(str((config if master is None else master).hydra.sweep.dir))  # one, also where its name is swept
    subdir = str(config.hydra.sweep.subdir)
    folder = root / (subdir or ".")
    problems += _name_problems(config, root, subdir)
    twin = next((i for i, job in enumerate(earlier) if job.folder == folder), None)
    if twin is not None:
        problems.append(
            Problem(
                "hydra.sweep.subdir",
                f"is the folder of job {twin} too",
                subdir,
                "one folder per job",
                instead="hydra.sweep.subdir='${hydra.job.num}'",
            )
        )
    launcher = OmegaConf.to_container(config.hydra.launcher)
    checked = check(
        config,
        origin=Origin([*hydra_overrides, *overrides], composer=composer),
        launcher=launcher if isinstance(launcher, dict) else None,  # type: ignore[arg-type]
        folder=root,
        cache=cache,
        known=problems,
    )
    same = next((i for i, job in enumerate(earlier) if job.overrides == tuple(overrides)), None)
    if same is not None:
        checked.warnings.append(f"jobs {same} and {number} of this sweep are the same: {' '.join(overrides)}")
    return Job(tuple(overrides), folder, checked, pickle.dumps(config))


def _dirname(overrides: Sequence[str], told: DictConfig) -> str:
    """As Hydra has it, which knows only what it composed itself."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return get_overrides_dirname(parsed, list(told.exclude_keys), told.item_sep, told.kv_sep)


def _name_problems(config: DictConfig, root: Path, subdir: str) -> list[Problem]:
    """What a job is called decides where it writes: nothing may lead out of the sweep's folder."""
    problems = []
    wrong = folder_problem(subdir) or ("" if stays_inside(root / subdir, root) else "leads out of the sweep's folder")
    if wrong:
        fix = "hydra.sweep.subdir='${hydra.job.num}'"
        expected = "a folder below hydra.sweep.dir, of letters, digits and =,._-+"
        problems.append(Problem("hydra.sweep.subdir", wrong, repr(subdir), expected, instead=fix))
    for key in _NAMES[1:]:
        name = OmegaConf.select(config, key)
        if name is not None and (wrong := file_problem(str(name).removeprefix("."))):
            problems.append(Problem(key, wrong, repr(name), "a name of letters, digits and =,._-+"))
    return problems


def _target_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
