"""Retries or cancels jobs of a sweep. Its folder may be somebody else's: what it holds is data, never code."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from plainloop.config.check.check import CheckCache, check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.compose.resume import has_checkpoints, merge_saved_config
from plainloop.config.explain.problems import BadJob, InvalidConfig, invalid_run, invalid_sweep
from plainloop.errors import BadConfig, Unresumable
from plainloop.run_dir.config_file import read_yaml
from plainloop.run_dir.status import quote_for_hydra, read_status
from plainloop.sweep import driver, index, outcome
from plainloop.sweep.job import Job, SweepTask
from plainloop.sweep.numbering import refuse_folder
from plainloop.sweep.outcome import BAD, Row
from plainloop.sweep.slurm import launching
from plainloop.system import lock, storage

_OUR_LAUNCHERS = {
    "local.LocalLauncher": "local",
    "local.GpuPoolLauncher": "gpu_pool",
    "submitit_local.SubmititLocalLauncher": "submitit_local",
    "submitit_slurm.SlurmLauncher": "submitit_slurm",
}


def retry(
    sweep: Path, numbers: Sequence[int] = (), *, composer: Composer, typed: Sequence[str] = (), lost: bool = True
) -> int:
    """Runs the failed and lost jobs again in their folders, each under its own config, which is checked once more.

    Args:
        numbers: these jobs instead, which may also have been cancelled or stopped.
        typed: overrides of `driver.TYPED_ANEW`, which no file decides.
        lost: False leaves out jobs whose process has disappeared.

    Raises Locked while a process runs the sweep, BadConfig for a job that cannot be retried.
    """
    sweep = sweep.absolute()
    chosen = choose(outcome.rows(sweep), numbers, lost=lost)
    if not chosen:
        driver.print_lines([f"nothing to retry in {sweep}"])
        return 0
    words = [*launcher_words(sweep, composer, typed), *typed]
    master = _composed(composer, words)
    task = SweepTask(sweep, _checked_jobs(chosen, sweep, words, composer), add=_no_more)
    with open_dict(master):
        master.hydra.sweep.dir, master.hydra.mode = str(sweep), RunMode.MULTIRUN
    setup_globals()
    HydraConfig.instance().set_config(master)
    context = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
    with driver.running(sweep):
        configure_log(master.hydra.hydra_logging, master.hydra.verbose)
        still = {row.number for row in choose(outcome.rows(sweep), [row.number for row in chosen], lost=lost)}
        task.jobs = [job for job in task.jobs if job.number in still]
        launched = driver.run_unfinished(launcher, task)
    return driver.print_result(sweep, sorted(still), launched, typed=typed)


def choose(rows: Sequence[Row], numbers: Sequence[int] = (), *, lost: bool = True) -> list[Row]:
    """
    Raises BadConfig for a number that is done, runs, or does not exist.
    """
    if not numbers:
        return [row for row in rows if row.state in BAD and (lost or row.state != "LOST")]
    known = {row.number: row for row in rows}
    for number in numbers:
        state = known[number].state if number in known else "not a job of this sweep"
        if number not in known or state in ("DONE", "RUNNING"):
            raise BadConfig(f"job {number} is {state}: it cannot be retried", hint="leave its number out")
    return [known[number] for number in dict.fromkeys(numbers)]


def launcher_words(sweep: Path, composer: Composer, typed: Sequence[str]) -> list[str]:
    """The saved launcher as overrides: its name if it is one of ours, and its plain values.

    Nothing is taken where another launcher is typed. Raises BadConfig for values that run commands, choose folders or
    refer to others: a person must type those. Raises Unresumable where none can be read.
    """
    if any(word.startswith("hydra/launcher=") for word in typed):
        return []
    path = sweep / "multirun.yaml"
    try:
        saved = {**read_yaml(path)["hydra"]["launcher"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Unresumable(f"{path} cannot be read: {error}", hint="type the sweep's command again") from error
    option = _OUR_LAUNCHERS.get(str(saved.get("_target_")).removeprefix("hydra_plugins.plainloop_launchers."))
    words, refused = [f"hydra/launcher={option or 'local'}"], list[str]()
    now: Any = OmegaConf.to_container(_composed(composer, [*words, *typed]).hydra.launcher)
    given = {".".join(word.partition("=")[0].lstrip("+").split(".")[:3]) for word in typed}
    for name, value in saved.items():
        key = f"hydra.launcher.{name}"
        if name not in now or name == "_target_" or key in given or value == now[name]:
            continue
        is_plain = isinstance(value, str | int | float | None) and "${" not in str(value)
        word = f"{'++' if isinstance(value, dict) else ''}{key}={quote_for_hydra(value)}"
        (words if is_plain and key not in driver.TYPED_ANEW else refused).append(word.replace("\\${", "${"))
    if option and refused:
        again = driver.sweep_command("retry", sweep, *typed, *refused)
        message = f"{path} has values that run commands or name places: {shlex.join(refused)}"
        raise BadConfig(message, hint=f"look at them, then type those that you want: {again}")
    return words


def cancel(sweep: Path, numbers: Sequence[int] = ()) -> list[str]:
    """Stops a sweep; what was done, in lines. Running jobs save first. Raises BadConfig and SlurmError."""
    if launching.was_submitted(sweep):
        known = [entry for entry in index.read(sweep) if not numbers or entry.number in numbers]
        folders = {e.number: sweep / e.folder for e in known if index.stays_inside(sweep / e.folder, sweep)}
        cancelled = launching.cancel(sweep, folders)
        lines = [f"job {number}: Slurm job {slurm_job} cancelled" for number, slurm_job in cancelled.items()]
        return lines or [f"nothing to cancel: no job in Slurm's queue was submitted from {sweep.resolve()}"]
    if numbers:
        raise BadConfig("jobs of a local sweep are cancelled together", hint="leave the numbers out")
    holder = storage.read_json(sweep / "run.lock") or {}
    if holder and lock.is_alive(holder) is None:
        host = holder.get("host", "another machine")
        raise BadConfig(f"the sweep may run on {host}, which cannot be seen from here", hint=f"type this on {host}")
    if lock.stop(sweep, holder):
        told = [f"process {holder['pid']}"]
    else:  # jobs may outlive the process that started them
        running = [row for row in outcome.rows(sweep) if row.state == "RUNNING"]
        told = [f"job {n.number}: process {n.status.pid}" for n in running if lock.stop(n.folder, vars(n.status))]
    lines = [f"{name} was told to save and stop" for name in told]
    return lines or ["nothing to cancel: no process runs this sweep, and no job runs"]


def _composed(composer: Composer, words: Sequence[str]) -> DictConfig:
    composed = composer.compose_or_explain(words)
    if composed.config is None or composed.problems:
        raise invalid_run(composed.problems, words)
    return composed.config


def _checked_jobs(rows: Sequence[Row], sweep: Path, words: Sequence[str], composer: Composer) -> list[Job]:
    """Each job as a resume makes it from its saved config. Raises InvalidConfig with the problems of all."""
    jobs, bad, cache = list[Job](), list[BadJob](), CheckCache()
    for row in rows:
        subdir = str(row.folder.relative_to(sweep))
        try:
            refuse_folder(subdir, sweep, row.overrides)
            read_status(row.folder)  # raises BadData for files that no run writes, before torch is imported
            composed = merge_saved_config(row.folder, words, composer)
            config = composed.config
            if config is None:
                raise invalid_run(composed.problems, words)
            if has_checkpoints(row.folder):
                config.init_from = None  # the checkpoint holds all weights
            config.hydra.overrides.task = [text.replace("${", "\\${") for text in row.overrides]
            origin = Origin(words, composer=composer, saved=row.folder / "config.yaml")
            launcher: Any = OmegaConf.to_container(config.hydra.launcher)
            known, folder = composed.problems, row.folder
            checked = check(config, origin=origin, launcher=launcher, folder=folder, cache=cache, known=known)
        except InvalidConfig as error:
            bad.append(BadJob(row.number, row.overrides, error.problems))
            continue
        jobs.append(Job(row.number, row.overrides, folder, subdir, checked.config, pickle.dumps(config), row.hash))
    if bad:
        raise invalid_sweep(bad, len(rows))
    return jobs


def _no_more(overrides: tuple[str, ...]) -> Job:
    raise AssertionError("no sweeper proposes jobs in a retry")
