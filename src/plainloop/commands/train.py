"""Hydra's edges: what happens between the command line and the run, and what the shell is told after it.

Plain `@hydra.main` would make folders before anything is checked, print composition errors in its own way and compose
the jobs of a sweep only when they start. So its pieces are called in our order: compose, check, then `run_job` or the
sweeper.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, read_write

from plainloop.config.check.check import Checked, check
from plainloop.config.compose import command as command_line
from plainloop.config.compose.command import Command
from plainloop.config.compose.composer import Composed, Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.compose.resume import (
    has_checkpoints,
    is_finished,
    merge_saved_config,
    newest_unfinished,
    split_resume,
)
from plainloop.config.explain.problems import InvalidConfig, Problem, invalid_run
from plainloop.distributed import ranks
from plainloop.distributed.failures import RankFailed
from plainloop.errors import LostPeer, Preempted, RunError
from plainloop.loggers.screen import working
from plainloop.run_dir.journal import end_in_log_file
from plainloop.run_dir.status import command_to_continue
from plainloop.sweep.check import check_sweep
from plainloop.sweep.paths import unreadable
from plainloop.system import storage
from plainloop.system.processes import sleep_while_waiting

log = logging.getLogger("plainloop")

_INTERRUPTED = 130  # as shells count it: 128 + SIGINT


def main(conf_dir: Path) -> None:
    """Does what the command line says. Leaves by SystemExit with a code of `plainloop.errors` unless all is well."""
    sys.argv[1:] = command_line.without_local_rank(sys.argv[1:])
    sleep_while_waiting()
    try:
        ranks.read_launcher_variables()
    except RunError as error:
        raise SystemExit(tell(error)) from error
    command = command_line.parse(sys.argv[1:])
    if command.information:
        inform(conf_dir)
        return
    try:
        code = start(command, conf_dir)
    except RunError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        code = tell(error)
    except Preempted as stopped:
        code = tell_stopped(stopped, command)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:  # the last door: what nobody foresaw keeps its traceback and gets its own exit code
        traceback.print_exc()
        raise SystemExit(RunError.code) from error
    if code:
        raise SystemExit(code)


def start(command: Command, conf_dir: Path) -> int:
    """Composes, checks, then trains; the exit code. Raises InvalidConfig before anything exists on disk."""
    register_launchers(conf_dir)
    composer = Composer(conf_dir, config_name=command.config_name, extra_dir=command.config_dir)
    command = replace(command, overrides=composer.as_names(command.overrides))
    if command.multirun or "hydra.mode=MULTIRUN" in command.overrides:
        return start_sweep(command, composer)
    return start_run(command, composer)


def register_launchers(conf_dir: Path) -> None:
    """Ours take the names of the submitit plugin's, and only after Hydra's scan, which stores the plugin's.

    Raises BadConfig for site settings (conf/local/slurm.yaml) that are none.
    """
    Plugins.instance()
    from hydra_plugins.plainloop_launchers.submitit_local import LocalConf
    from hydra_plugins.plainloop_launchers.submitit_slurm import of_the_site

    ConfigStore.instance().store(group="hydra/launcher", name="submitit_local", node=LocalConf())
    ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=of_the_site(conf_dir))


def start_run(command: Command, composer: Composer) -> int:
    composed, origin, run = compose_run(command, composer)
    known = [*composer.wrong_flags(command.flags), *composed.problems]
    config = composed.config
    if config is None:
        raise invalid_run(known, command.overrides)
    if wrong := unreadable(config, ("hydra.run.dir", "hydra.job.name", "resume")):
        raise invalid_run([*known, *wrong], command.overrides)
    HydraConfig.instance().set_config(config)
    resume = config.get("resume")
    folder = run or Path(str(config.hydra.run.dir if resume in (None, "auto") else resume))
    if has_checkpoints(folder):
        config.init_from = None  # the checkpoint holds all weights
    if not known and not config.check and config.get("resume_step") is None and is_finished(folder, config):
        return tell_finished(folder)
    with working("checking"):
        checked = check(config, origin=origin, folder=folder, known=known)
    if checked.config["check"]:
        tell_plan(str(checked.plan))
        return 0
    if resume == "auto":
        found = newest_unfinished(folder.parent, checked.config)
        if found is None and ranks.rank() == 0:
            sys.stderr.write(f"resume=auto: no unfinished run with this config in {folder.parent}; a new one begins\n")
        folder = found or folder
    warn(checked)
    if ranks.rank() != 0:
        return train(checked.config, None)
    return train_as_hydra_job(composer, config, checked, folder)


def compose_run(command: Command, composer: Composer) -> tuple[Composed, Origin, Path | None]:
    """The config of one run, where its keys come from, and the folder of the run that `resume=` names."""
    run, step = split_resume(command.value_of("resume"))
    overrides = [*command.overrides, *([f"resume_step={step}"] if step is not None else [])]
    if run in (None, "auto"):
        return composer.compose_or_explain(overrides), Origin(overrides, composer=composer), None
    composed = merge_saved_config(Path(run), overrides, composer)
    return composed, Origin(overrides, composer=composer, saved=Path(run) / "config.yaml"), Path(run)


def train_as_hydra_job(composer: Composer, config: DictConfig, checked: Checked, folder: Path) -> int:
    """Hydra makes the folder, `.hydra/` and the log file; `.hydra/` is that of the first start."""
    with read_write(config.hydra):
        config.hydra.run.dir = str(folder)
        config.hydra.mode = RunMode.RUN
        if (folder / ".hydra").exists():
            config.hydra.output_subdir = None
    storage.make_folder(folder)  # Hydra would, and end with a traceback where it cannot
    callbacks = Callbacks(config)
    callbacks.on_run_start(config=config, config_name=composer.config_name)
    done = run_job(
        hydra_context=HydraContext(config_loader=composer.loader, callbacks=callbacks),
        task_function=lambda _: train(checked.config, folder),
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
    )
    callbacks.on_run_end(config=config, config_name=composer.config_name, job_return=done)
    code: int = done.return_value  # raises what nobody foresaw
    return code


def start_sweep(command: Command, composer: Composer) -> int:
    if ranks.rank() != 0 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problem = Problem(
            "-m",
            "a launcher has started several processes already",
            instead="-m without torchrun, with trainer.devices=N",
        )
        raise invalid_run([problem], command.overrides)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # CUDA stays asleep here, so that jobs can be forked
    sweep = check_sweep(composer, command.overrides, composer.wrong_flags(command.flags))
    if sweep.jobs and sweep.jobs[0].checked.config["check"]:
        for number, job in enumerate(sweep.jobs):
            tell_plan(f"job {number} of {len(sweep.jobs)}   ({' '.join(job.overrides)})\n{job.checked.plan}")
        return 0
    for text in dict.fromkeys(text for job in sweep.jobs for text in job.checked.warnings):
        sys.stderr.write(f"warning: {text}\n")
    from plainloop.sweep import driver

    return driver.start(sweep, composer, sys.argv[1:])


def train(config: dict[str, Any], folder: Path | None) -> int:
    """One run to its end; what a person can mend is told here, so that the next job of a sweep still starts."""
    from plainloop.loggers.console import closing_lines
    from plainloop.run.launch import start

    try:
        with end_in_log_file(folder, config["plugins"]) if folder else nullcontext():
            summary = start(config | {"resume": None, "check": False}, folder)
    except RunError as error:
        return tell(error)
    if folder is not None:
        for line in closing_lines(summary, folder):
            log.info(line)
    return 0


def inform(conf_dir: Path) -> None:
    """--help, --cfg, --info and their kind are Hydra's business."""

    def nothing(_: DictConfig) -> None:
        raise AssertionError("an informational flag starts no run")

    os.environ.setdefault("HYDRA_MAIN_MODULE", "train")  # what Hydra shows as the job's name
    hydra.main(version_base="1.3", config_path=str(conf_dir), config_name="train")(nothing)()


def warn(checked: Checked) -> None:
    if ranks.rank() == 0:
        for text in checked.warnings:
            sys.stderr.write(f"warning: {text}\n")


def tell_plan(text: str) -> None:
    if ranks.rank() == 0:
        sys.stdout.write(f"{text}\n")


def tell_finished(folder: Path) -> int:
    """What there is to say of a run that is done."""
    if ranks.rank() == 0:
        path = folder / "summary.json"
        best = (json.loads(path.read_text()).get("best") or {}) if path.is_file() else {}
        shown = (
            f": best {best['metric']} {best['value']:.4g} at step {best['step']}"
            if best.get("value") is not None
            else ""
        )
        sys.stdout.write(f"done: {folder} is finished{shown}\n")
    return 0


def tell(error: RunError) -> int:
    """The message, what to type next, and the exit code. What all ranks find out, such as a wrong config, one tells."""
    if ranks.rank() == 0 or not isinstance(error, InvalidConfig | RankFailed | LostPeer):
        where = f"rank {ranks.rank()}: " if ranks.rank() else ""
        sys.stderr.write(f"{where}{error}\n" + (f"next: {error.hint}\n" if error.hint else ""))
    return error.code


def tell_stopped(stopped: Preempted, command: Command) -> int:
    """The last line of a stopped run is the command that continues it."""
    if ranks.rank() == 0:
        sys.stderr.write(f"{stopped}; to go on:\n{_command_to_continue(stopped.folder, command)}\n")
    return stopped.code


def _command_to_continue(folder: Path, command: Command) -> str:
    plugins = command.value_of("plugins")
    return command_to_continue(folder, overrides=[f"plugins={plugins}"] if plugins else [], script=sys.argv[0])
