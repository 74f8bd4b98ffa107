"""Starts again what failed, from what the sweep's folder holds: each job under the config that it was checked with."""

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
from plainloop.sweep import driver, outcome
from plainloop.sweep.job import Job
from plainloop.sweep.outcome import BAD, Row
from plainloop.sweep.task import Task
from plainloop.system import storage

OURS = "hydra_plugins.plainloop_launchers."


def retry(sweep: Path, numbers: Sequence[int] = (), *, lost: bool = True, train: Path) -> int:
    """Runs the failed and the lost jobs again, in their folders; nothing that is done, runs or waits for its turn.

    Args:
        numbers: these jobs instead, which may also have been cancelled or stopped.
        lost: False leaves out those that were killed without a word.
        train: train.py, for the command that goes on.

    Raises Locked while a process drives the sweep, BadConfig for a job that cannot be retried.
    """
    sweep = sweep.absolute()
    chosen = choose(outcome.rows(sweep), numbers, lost=lost)
    if not chosen:
        driver.say([f"nothing to retry in {sweep}"])
        return 0
    master = saved_master(sweep)
    task = Task(sweep, [_job(row, sweep, master) for row in chosen], late=_no_more)
    setup_globals()
    HydraConfig.instance().set_config(master)
    plugins = Plugins.instance()
    context = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
    launcher = plugins.instantiate_launcher(hydra_context=context, task_function=task, config=master)
    with driver.driving(sweep):
        configure_log(master.hydra.hydra_logging, master.hydra.verbose)
        still = {row.number for row in choose(outcome.rows(sweep), [row.number for row in chosen], lost=lost)}
        task.jobs = [job for job in task.jobs if job.number in still]
        launched = driver.bring_to_an_end(launcher, task)
    return driver.tell(sweep, sorted(still), launched, again=_again(sweep, master, train))


def choose(rows: Sequence[Row], numbers: Sequence[int] = (), *, lost: bool = True) -> list[Row]:
    """
    Raises BadConfig for a number that is done, runs, or is not there.
    """
    if not numbers:
        return [row for row in rows if row.state in BAD and (lost or row.state != "LOST")]
    known = {row.number: row for row in rows}
    for number in numbers:
        state = known[number].state if number in known else "not a job of this sweep"
        if number not in known or state in ("DONE", "RUNNING"):
            raise BadConfig(f"job {number} is {state}: there is nothing to retry", hint="leave its number out")
    return [known[number] for number in dict.fromkeys(numbers)]


def saved_master(sweep: Path) -> DictConfig:
    """The sweep's config, which its launcher's keys may refer to, with a launcher of ours. Raises Unresumable."""
    try:
        master: Any = OmegaConf.load(sweep / "multirun.yaml")
        hydra = OmegaConf.structured(HydraConf)
        OmegaConf.set_struct(hydra, False)
        master.hydra = OmegaConf.merge(hydra, master.hydra)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise Unresumable(
            f"{sweep / 'multirun.yaml'} cannot be read: {error}", hint="type the sweep's command again"
        ) from error
    if not str(master.hydra.launcher._target_).startswith(OURS):
        master.hydra.launcher = {"_target_": f"{OURS}local.LocalLauncher"}
    master.hydra.sweep.dir = str(sweep)
    return master


def _job(row: Row, sweep: Path, master: DictConfig) -> Job:
    config = yaml.safe_load(storage.read_whole(row.folder / "config.yaml"))
    composed = OmegaConf.create({key: value for key, value in config.items() if key != "facts"})
    with open_dict(composed):
        composed.hydra = master.hydra
        composed.hydra.overrides.task = list(row.overrides)
    subdir = str(row.folder.relative_to(sweep))
    return Job(row.number, row.overrides, row.folder, subdir, config, pickle.dumps(composed), row.hash)


def _again(sweep: Path, master: DictConfig, train: Path) -> str:
    typed = [*master.hydra.overrides.task, *master.hydra.overrides.hydra]
    kept = [text for text in typed if not text.startswith("hydra.mode=")]
    return driver.sweep_command(sweep, ["-m", *kept], train=str(train))


def _no_more(overrides: tuple[str, ...]) -> Job:
    raise AssertionError("no sweeper thinks of jobs in a retry")
