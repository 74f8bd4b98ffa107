"""`python train.py`: from the command line to the run, and what is printed after it.

Plain `@hydra.main` makes folders before anything is checked, and composes the jobs of a sweep only when they start. So
its pieces are called in our order: compose, check, then `run_job` or the sweeper.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from plainloop.config.check.check import Checked, check
from plainloop.config.compose import command as command_line
from plainloop.config.compose import resume as resuming
from plainloop.config.compose.command import Command
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.job_environment import set_secrets
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import InvalidConfig, Problem, invalid_run
from plainloop.config.explain.suggest import as_override
from plainloop.distributed import ranks
from plainloop.distributed.failures import RankFailed
from plainloop.errors import LostPeer, Preempted, RunError, printable
from plainloop.loggers.screen import columns, working
from plainloop.report.plan import plan_of
from plainloop.run_dir.journal import end_in_log_file
from plainloop.run_dir.status import command_to_continue, read_summary
from plainloop.sweep.check import Sweep, check_sweep, unreadable
from plainloop.system import storage
from plainloop.system.folders import require_plain_folder, require_working_directory
from plainloop.system.processes import open_screens, sleep_while_waiting

log = logging.getLogger("plainloop")


def main(conf_dir: Path) -> None:
    """Does what the command line says. Ends with SystemExit with a code of `plainloop.errors` unless all is well."""
    open_screens()
    sys.argv[1:] = command_line.without_local_rank(sys.argv[1:])
    sleep_while_waiting()
    command = command_line.parse(sys.argv[1:])
    try:
        require_working_directory()
        ranks.read_launcher_variables()
        code = answer_by_hydra(conf_dir) if command.information else start(command, conf_dir)
    except RunError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        code = print_error(error)
    except Preempted as stopped:
        code = print_stopped(stopped, command)
    except KeyboardInterrupt:
        code = 130  # as shells count it: 128 + SIGINT
    except Exception as error:  # an error of ours keeps its traceback and has its own exit code
        traceback.print_exc()
        raise SystemExit(RunError.code) from error
    if code:
        raise SystemExit(code)


def start(command: Command, conf_dir: Path) -> int:
    """Composes, checks, then trains; the exit code. Raises InvalidConfig before anything exists on disk."""
    register_launchers(conf_dir)
    composer = Composer(conf_dir, config_name=command.config_name, extra_dir=command.config_dir)
    command = replace(command, overrides=composer.as_names(command.overrides))
    if command.shown:
        return show_config(command, composer)
    if command.multirun or "hydra.mode=MULTIRUN" in command.overrides:
        return start_sweep(command, composer)
    return start_run(command, composer)


def register_launchers(conf_dir: Path) -> None:
    """Ours replace the submitit plugin's after Hydra's scan. Raises BadConfig for wrong settings in conf/local."""
    Plugins.instance()
    from hydra_plugins.plainloop_launchers.submitit_local import LocalConf
    from hydra_plugins.plainloop_launchers.submitit_slurm import site_defaults

    ConfigStore.instance().store(group="hydra/launcher", name="submitit_local", node=LocalConf())
    ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=site_defaults(conf_dir))


def start_run(command: Command, composer: Composer) -> int:
    config, origin, folder, problems = compose_run(command, composer)
    resume = config.get("resume")
    if command.value_of("search") and config.hydra.sweeper.get("params"):
        instead = f"-m search={command.value_of('search')}"
        problems.append(Problem("search", "holds lists of values, which only a sweep takes", instead=instead))
    if not problems and not config.check and config.get("resume_step") is None and resuming.is_finished(folder, config):
        return print_finished(folder)
    with working("checking"):
        checked = check(config, origin=origin, folder=folder, known=problems)
    if checked.config["check"]:
        print_once(plan_of(checked, width=columns()))
        return 0
    if resume == "auto":
        found = resuming.newest_unfinished(folder.parent, checked.config)
        if found is None:
            print_once(f"resume=auto: no unfinished run with this config in {folder.parent}; one begins", sys.stderr)
        folder = found or folder
    for text in checked.warnings:
        print_once(f"warning: {text}", sys.stderr)
    if ranks.rank() != 0:
        return train(checked.config, None)
    return train_as_hydra_job(composer, config, checked, folder)


def show_config(command: Command, composer: Composer) -> int:
    """`--cfg job|hydra|all` prints the config that the same command runs; with --resolve as its config.yaml has it."""
    config, origin, folder, problems = compose_run(command, composer)
    if problems:
        raise invalid_run(problems, command.overrides)
    with open_dict(config):
        if command.resolve:
            config.merge_with(check(config, origin=origin, folder=folder).config)
            OmegaConf.set_readonly(config.hydra, None)
            OmegaConf.resolve(config.hydra)
        if "batch_size_per_device" in config.data:
            config.data.pop("batch_size_per_device" if command.resolve else "batch_size")  # the one gives the other
    shown = composer.hydra.get_sanitized_cfg(config, command.shown)
    part = OmegaConf.select(shown, command.package) if command.package else shown
    print_once((OmegaConf.to_yaml(part) if OmegaConf.is_config(part) else as_override(part)).rstrip())
    return 0


def compose_run(command: Command, composer: Composer) -> tuple[DictConfig, Origin, Path, list[Problem]]:
    """The config of one run, where its keys come from, its folder, and what is wrong with the command line."""
    run, step = resuming.split_resume(command.value_of("resume"))
    typed = [*command.overrides, *([f"resume_step={step}"] if step is not None else [])]
    saved = None if run in (None, "auto") else Path(str(run))
    composed = resuming.merge_saved_config(saved, typed, composer) if saved else composer.compose_or_explain(typed)
    problems, config = [*composer.wrong_flags(command.flags), *composed.problems], composed.config
    if config is None:
        raise invalid_run(problems, typed)
    if wrong := unreadable(config, ("hydra.run.dir", "hydra.job.name", "resume")):
        raise invalid_run([*problems, *wrong], typed)
    if config.get("resume_step") is not None and saved is None:
        what, instead = "is a step of a run, and none is given", f"resume=<run dir> resume_step={config.resume_step}"
        problems.append(Problem("resume_step", what, instead=instead))
    HydraConfig.instance().set_config(config)
    folder = saved or Path(str(config.hydra.run.dir))
    if resuming.has_checkpoints(folder):
        config.init_from = None  # the checkpoint holds all weights
    origin = Origin(typed, composer=composer, saved=saved and saved / "config.yaml")
    return config, origin, folder, problems


def train_as_hydra_job(composer: Composer, config: DictConfig, checked: Checked, folder: Path) -> int:
    """Hydra makes the folder, `.hydra/` and the log file; `.hydra/` is that of the first start."""
    with read_write(config.hydra):
        config.hydra.run.dir = str(folder)
        config.hydra.mode = RunMode.RUN
        if (folder / ".hydra").exists():
            config.hydra.output_subdir = None
    set_secrets(config.hydra)
    require_plain_folder(folder)
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
    return int(done.return_value)  # raises errors of ours


def start_sweep(command: Command, composer: Composer) -> int:
    sweep = checked_sweep(command, composer)
    if sweep.jobs and sweep.jobs[0].config["check"]:
        for job, checked in zip(sweep.jobs, sweep.checked, strict=True):
            head = f"job {job.number} of {len(sweep.jobs)}   ({' '.join(job.overrides)})"
            print_once(f"{head}\n{plan_of(checked, width=columns())}")
        return 0
    return run_sweep(sweep, composer)


def checked_sweep(command: Command, composer: Composer) -> Sweep:
    """All jobs of a sweep; nothing exists yet. Raises InvalidConfig."""
    if ranks.rank() != 0 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        wrong = Problem("-m", "a launcher has started processes", instead="-m without torchrun, with trainer.devices=N")
        raise invalid_run([wrong], command.overrides)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # without initialising CUDA, so that jobs can be forked
    return check_sweep(composer, command.overrides, composer.wrong_flags(command.flags))


def run_sweep(sweep: Sweep, composer: Composer) -> int:
    """The worst exit code of the jobs."""
    for text in sweep.warnings:
        print_once(f"warning: {text}", sys.stderr)
    from plainloop.sweep import driver

    return driver.start(sweep, composer, sys.argv[1:])


def train(config: dict[str, Any], folder: Path | None) -> int:
    """Trains one run to its end. Prints what a person can mend, so that the next job of a sweep still starts."""
    from plainloop.loggers.console import closing_lines
    from plainloop.run.launch import start

    try:
        with end_in_log_file(folder, config["plugins"]) if folder else nullcontext():
            summary = start(config | {"resume": None, "check": False}, folder)
    except RunError as error:
        return print_error(error)
    if folder is not None:
        from plainloop.report.advice.advice import lines

        *results, where = closing_lines(summary, folder)
        for line in (*results, *lines(folder), where):
            log.info(line)
        if config["report"] != "never":
            from plainloop.report.run.page import report_at_the_end

            report_at_the_end(folder)
    return 0


def answer_by_hydra(conf_dir: Path) -> int:
    """--help, --info, --version and --shell-completion; they start no run."""
    os.environ.setdefault("HYDRA_MAIN_MODULE", "train")  # what Hydra shows as the job's name
    hydra.main(version_base="1.3", config_path=str(conf_dir), config_name="train")(lambda _: None)()
    return 0


def print_once(text: str, stream: TextIO | None = None) -> None:
    """A line that all ranks could print, from rank 0 alone."""
    if ranks.rank() == 0:
        (stream or sys.stdout).write(f"{text}\n")


def print_finished(folder: Path) -> int:
    summary = read_summary(folder)
    best: Any = (summary or {}).get("best")
    has_value = best and best["value"] is not None
    shown = f": best {best['metric']} {best['value']:.4g} at step {best['step']}" if has_value else ""
    damaged = f"; {folder / 'summary.json'} is missing or damaged" if summary is None else ""
    print_once(printable(f"done: {folder} is finished{shown}{damaged}"))
    return 0


def print_error(error: RunError) -> int:
    """Gives the exit code. What all ranks find, rank 0 prints."""
    if ranks.rank() == 0 or not isinstance(error, InvalidConfig | RankFailed | LostPeer):
        where = f"rank {ranks.rank()}: " if ranks.rank() else ""
        sys.stderr.write(f"{where}{error}\n" + (f"next: {error.hint}\n" if error.hint else ""))
    return error.code


def print_stopped(stopped: Preempted, command: Command) -> int:
    """The last line is the command that continues the run. Gives the exit code."""
    again = [text for text in command.overrides if text.startswith("plugins=")]
    line = command_to_continue(stopped.folder, overrides=again, script=sys.argv[0])
    print_once(f"{stopped}; to go on:\n{line}", sys.stderr)
    return stopped.code
