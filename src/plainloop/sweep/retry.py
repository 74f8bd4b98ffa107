"""Retries or cancels jobs of a sweep; needs only its folder."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.callbacks import Callbacks
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from plainloop.errors import BadConfig, Unresumable
from plainloop.sweep import driver, index, outcome
from plainloop.sweep.job import Job, SweepTask
from plainloop.sweep.outcome import BAD, Row
from plainloop.sweep.slurm import launching
from plainloop.system import lock, storage

_OUR_LAUNCHERS = "hydra_plugins.plainloop_launchers."


def retry(sweep: Path, numbers: Sequence[int] = (), *, lost: bool = True, train: Path) -> int:
    """Runs the failed and lost jobs again in their folders, each under the config that it was checked with.

    Args:
        numbers: these jobs instead, which may also have been cancelled or stopped.
        lost: False leaves out jobs whose process has disappeared.
        train: train.py, for the command that continues the sweep.

    Raises Locked while a process runs the sweep, BadConfig for a job that cannot be retried.
    """
    sweep = sweep.absolute()
    chosen = choose(outcome.rows(sweep), numbers, lost=lost)
    if not chosen:
        driver.print_lines([f"nothing to retry in {sweep}"])
        return 0
    master = saved_master(sweep)
    task = SweepTask(sweep, [_job(row, sweep, master) for row in chosen], add=_no_more)
    setup_globals()
    HydraConfig.instance().set_config(master)
    context = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
    with driver.running(sweep):
        configure_log(master.hydra.hydra_logging, master.hydra.verbose)
        still = {row.number for row in choose(outcome.rows(sweep), [row.number for row in chosen], lost=lost)}
        task.jobs = [job for job in task.jobs if job.number in still]
        launched = driver.run_unfinished(launcher, task)
    typed = [*master.hydra.overrides.task, *master.hydra.overrides.hydra]
    kept = ["-m", *(text for text in typed if not text.startswith("hydra.mode="))]
    again = driver.command_to_continue_sweep(sweep, kept, script=str(train))
    return driver.print_result(sweep, sorted(still), launched, again=again)


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


def saved_master(sweep: Path) -> DictConfig:
    """The sweep's config, which the launcher's keys may refer to, with a launcher of ours. Raises Unresumable."""
    try:
        master: Any = OmegaConf.load(sweep / "multirun.yaml")
        hydra = OmegaConf.structured(HydraConf)
        OmegaConf.set_struct(hydra, False)
        master.hydra = OmegaConf.merge(hydra, master.hydra)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        message = f"{sweep / 'multirun.yaml'} cannot be read: {error}"
        raise Unresumable(message, hint="type the sweep's command again") from error
    if not str(master.hydra.launcher._target_).startswith(_OUR_LAUNCHERS):
        master.hydra.launcher = {"_target_": f"{_OUR_LAUNCHERS}local.LocalLauncher"}
    master.hydra.sweep.dir = str(sweep)
    return master


def cancel(sweep: Path, numbers: Sequence[int] = ()) -> list[str]:
    """Stops a sweep; what was done, in lines. Running jobs save first. Raises BadConfig and SlurmError."""
    if launching.was_submitted(sweep):
        folders = {e.number: sweep / e.folder for e in index.read(sweep) if not numbers or e.number in numbers}
        cancelled = launching.cancel(sweep, folders)
        lines = [f"job {number}: Slurm job {slurm_job} cancelled" for number, slurm_job in cancelled.items()]
        return lines or ["nothing to cancel"]
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


def _job(row: Row, sweep: Path, master: DictConfig) -> Job:
    config = yaml.safe_load(storage.read_whole(row.folder / "config.yaml"))
    composed = OmegaConf.create({key: value for key, value in config.items() if key != "facts"})
    with open_dict(composed):
        composed.hydra = master.hydra
        composed.hydra.overrides.task = list(row.overrides)
    subdir = str(row.folder.relative_to(sweep))
    return Job(row.number, row.overrides, row.folder, subdir, config, pickle.dumps(composed), row.hash)


def _no_more(overrides: tuple[str, ...]) -> Job:
    raise AssertionError("no sweeper proposes jobs in a retry")
