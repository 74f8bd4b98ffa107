"""Composes and checks every job of a sweep before the first one exists."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from plainloop.sweep.index import config_hash, folder_problem
from plainloop.sweep.job import Job
from plainloop.sweep.local.gpu_pool import pool_problems

_OWN_FOLDER = "hydra.sweep.subdir='${hydra.job.num}'"


@dataclass(frozen=True)
class Sweep:
    """What was checked.

    Args:
        master: the config that Hydra's sweeper and launcher take.
        jobs: empty when the sweeper is not Hydra's own and proposes its jobs later.
        checked: what the check gives for each job.
    """

    master: DictConfig
    jobs: list[Job] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """Of all jobs, each once."""
        return list(dict.fromkeys(text for checked in self.checked for text in checked.warnings))


def check_sweep(composer: Composer, overrides: Sequence[str], known: Sequence[Problem] = ()) -> Sweep:
    """Raises InvalidConfig with all problems of all jobs; makes no files."""
    problems = list(known)
    master = _master(composer, overrides)
    origin = Origin(overrides, composer=composer)
    if master is not None:
        found = locate(list(hydra_is_right(master, list(master.plugins or ()))), origin)
        problems += found
        is_search = not found and master.hydra.sweeper._target_ != _target_of(BasicSweeper)
        if problems and (found or is_search):
            raise invalid_run(problems, overrides)
        if is_search:
            return Sweep(master)
    hydra_overrides, jobs = _expand(composer, overrides, master, problems)
    if problems:
        raise invalid_run(problems, overrides)
    checks, bad = _JobChecks(composer, master, hydra_overrides), list[BadJob]()
    for number, job_overrides in enumerate(jobs):
        if number == 1:
            gc.freeze()  # torch is imported now: looking through its objects again and again took a third of the time
        try:
            checks.add(number, job_overrides)
        except InvalidConfig as error:
            bad.append(BadJob(number, tuple(job_overrides), error.problems))
    gc.unfreeze()
    if bad:
        raise invalid_sweep(bad, len(jobs))
    assert master is not None
    launcher: Any = OmegaConf.to_container(master.hydra.launcher)
    if str(launcher["_target_"]).endswith(".GpuPoolLauncher"):
        configs = [job.config for job in checks.jobs]
        if problems := pool_problems(launcher, configs, origin):
            raise invalid_run(problems, overrides)
    return Sweep(master, checks.jobs, checks.checked)


def check_proposed(composer: Composer, master: DictConfig, overrides: Sequence[str]) -> Job:
    """One more job, proposed while the sweep runs. Raises InvalidConfig."""
    return _JobChecks(composer, master, list(master.hydra.overrides.hydra)).add(0, list(overrides))


def unreadable(config: DictConfig, keys: Sequence[str]) -> list[Problem]:
    """Keys whose ${...} cannot be resolved."""
    problems = []
    for key in keys:
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            what, given = str(error).splitlines()[0], OmegaConf.to_container(config, resolve=False)
            for part in key.split("."):
                given = given[part] if isinstance(given, dict) else given
            problems.append(Problem(key, what, str(given), "text, or ${...} of a key that exists"))
    return problems


def _master(composer: Composer, overrides: Sequence[str]) -> DictConfig | None:
    """The config of the whole sweep; None when an override is wrong, which the check of the jobs explains."""
    try:
        master = composer.compose(overrides, RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException):
        return None
    with open_dict(master):
        master.hydra.mode = RunMode.MULTIRUN
    if problems := unreadable(master, ("hydra.sweep.dir",)):
        raise invalid_run(problems, overrides)
    str(master.hydra.sweep.dir)  # resolves the time of day in its name, which is then the same for all jobs
    return master


def _expand(
    composer: Composer, overrides: Sequence[str], master: DictConfig | None, problems: list[Problem]
) -> tuple[list[str], list[list[str]]]:
    """Hydra's overrides, and those of each job: the product of all lists, the last one fastest."""
    space = (OmegaConf.select(master, "hydra.sweeper.params") or {}) if master is not None else {}
    parser = OverridesParser.create(config_loader=composer.loader)
    of_jobs: list[Override] = []
    of_hydra: list[Override] = []
    for text in [*(f"{key}={value}" for key, value in space.items()), *overrides]:
        try:
            parsed = parser.parse_overrides([text])[0]  # unlike parse_override it tells glob() where the options are
        except HydraException:
            problems += composer.compose_or_explain([text]).problems
            continue
        if parsed.is_sweep_override() and (problem := _list_problem(parsed)):
            problems.append(problem)
        (of_hydra if parsed.is_hydra_override() else of_jobs).append(parsed)
    if problems:
        return [], []
    jobs = BasicSweeper.split_arguments(of_jobs, None)[0]
    return [parsed.input_line for parsed in of_hydra if parsed.input_line], jobs


def _list_problem(parsed: Override) -> Problem | None:
    """What is wrong with the values of a sweep: each must be known before the first job, and there must be one."""
    key, given, value = parsed.key_or_group, by(parsed.input_line), str(parsed.input_line).partition("=")[2]
    if parsed.is_hydra_override():
        what, expected = "is one for the whole sweep", "one value"
    elif not parsed.is_discrete_sweep():
        what = "has no list of values"
        expected = "a list: 0.1,0.2 or range(0.1,0.4,0.1); only searching sweepers take more"
    elif not any(True for _ in parsed.sweep_string_iterator()):
        what, expected = "has no value to try", "a list of one value at least: 1,2,3 or range(1,4)"
    else:
        return None
    return Problem(key, what, value, expected, given)


class _JobChecks:
    """Checks one job after the other; a job's folder must differ from those before it."""

    def __init__(self, composer: Composer, master: DictConfig | None, hydra_overrides: list[str]) -> None:
        self.jobs: list[Job] = []
        self.checked: list[Checked] = []
        self._composer, self._master, self._hydra_overrides = composer, master, hydra_overrides
        self._cache = CheckCache()
        self._numbers: dict[str | tuple[str, ...], int] = {}  # by folder and by overrides

    def add(self, number: int, overrides: list[str]) -> Job:
        """Raises InvalidConfig."""
        whole = [*self._hydra_overrides, *overrides]
        composed = self._composer.compose_or_explain(whole)
        config = composed.config
        if config is None:
            raise invalid_run(composed.problems, overrides)
        if self._master is not None:
            OmegaConf.copy_cache(from_config=self._master, to_config=config)  # one time of day for the whole sweep
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
            config.hydra.mode = RunMode.MULTIRUN
        HydraConfig.instance().cfg = config  # type: ignore[assignment]  # set_config copies it, which takes long
        if unreadable_keys := unreadable(config, ("hydra.sweep.dir", "hydra.sweep.subdir")):
            raise invalid_run([*composed.problems, *unreadable_keys], overrides)
        # The sweep has one folder, also when its name contains a key that is swept.
        root = Path(str((self._master or config).hydra.sweep.dir))
        subdir = str(config.hydra.sweep.subdir)
        problems = composed.problems or self._folder_problems(number, subdir)
        launcher = OmegaConf.to_container(config.hydra.launcher)
        checked = check(
            config,
            origin=Origin(whole, composer=self._composer),
            launcher=launcher if isinstance(launcher, dict) else None,  # type: ignore[arg-type]
            folder=root,
            cache=self._cache,
            known=problems,
        )
        same = self._numbers.setdefault(tuple(overrides), number)
        if same != number:
            checked.warnings.append(f"jobs {same} and {number} of this sweep are the same: {' '.join(overrides)}")
        folder, frozen = (root / subdir).absolute(), pickle.dumps(config)
        job = Job(number, tuple(overrides), folder, subdir, checked.config, frozen, config_hash(checked.config))
        self.jobs.append(job)
        self.checked.append(checked)
        return job

    def _folder_problems(self, number: int, subdir: str) -> list[Problem]:
        """No name may lead out of the sweep's folder, and no two jobs may share one. Links are refused at the start."""
        expected = "a folder below hydra.sweep.dir, of letters, digits and =,._-+"
        what, got = folder_problem(subdir), repr(subdir)
        twin = self._numbers.setdefault(subdir, number)
        if not what and twin != number:
            what, got, expected = f"is the folder of job {twin} too", subdir, "one folder per job"
        return [Problem("hydra.sweep.subdir", what, got, expected, instead=_OWN_FOLDER)] if what else []


def _target_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
