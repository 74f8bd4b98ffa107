"""Brings a checked sweep to its end: skips finished jobs, launches the others, prints one table."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import OmegaConf, open_dict, read_write

from plainloop.config.compose.composer import Composer
from plainloop.config.compose.job_environment import set_secrets
from plainloop.errors import Locked, Preempted, RunError, counted
from plainloop.run_dir.status import command_to_continue
from plainloop.sweep import outcome, table
from plainloop.sweep.check import Sweep, check_proposed
from plainloop.sweep.job import Job, Launched, SweepTask
from plainloop.sweep.numbering import assign_numbers, num_other_jobs, sweep_folder
from plainloop.system import lock, storage
from plainloop.system.folders import require_plain_folder

log = logging.getLogger("plainloop")

# What runs a person's own code or commands, or chooses folders: no file of a sweep decides it, so retry is told again.
TYPED_ANEW = (
    "plugins",
    *(f"hydra.launcher.{key}" for key in ("additional_parameters", "python", "setup", "srun_args", "submitit_folder")),
    "hydra.launcher.teardown",
)
_LOOK_EVERY_S = 1.0  # while another process trains the jobs that are left


def start(sweep: Sweep, composer: Composer, typed: Sequence[str]) -> int:
    """Runs what is not finished; the worst exit code of the jobs.

    Args:
        typed: the command line, for the command that continues the sweep.

    Raises InvalidConfig before anything exists, and Locked while another process runs the same sweep.
    """
    master, root = sweep.master, sweep_folder(sweep.master, sweep.jobs)
    with read_write(master.hydra), open_dict(master.hydra):
        master.hydra.sweep.dir = str(root)

    def add(overrides: tuple[str, ...]) -> Job:
        return assign_numbers(root, [check_proposed(composer, master, overrides)])[0]

    task = SweepTask(root, [job.moved_to(root) for job in sweep.jobs], add)
    context = HydraContext(config_loader=composer.loader, callbacks=Callbacks(master))
    setup_globals()
    HydraConfig.instance().set_config(master)
    plugins: Any = Plugins.instance()
    # Without jobs the sweeper is not Hydra's own: it proposes jobs while others run.
    make = plugins.instantiate_launcher if sweep.jobs else plugins.instantiate_sweeper
    plugin = make(hydra_context=context, task_function=task, config=master)
    with running(root):
        context.callbacks.on_multirun_start(config=master, config_name=composer.config_name)
        configure_log(master.hydra.hydra_logging, master.hydra.verbose)
        set_secrets(master.hydra)
        storage.write_whole(root / "multirun.yaml", OmegaConf.to_yaml(master).encode())
        if sweep.jobs:
            task.jobs = assign_numbers(root, task.jobs)
            if count := num_other_jobs(root, task.jobs):
                log.info("not part of this command, and left alone: %s of %s", counted(count, "job"), root)
            launched = run_unfinished(plugin, task)
        else:
            launched = search(plugin, list(master.hydra.overrides.task))
        context.callbacks.on_multirun_end(config=master, config_name=composer.config_name)
    again = command_to_continue_sweep(root, typed, script=sys.argv[0])
    return print_result(root, [job.number for job in task.jobs], launched, again=again, typed=typed)


def search(sweeper: Any, overrides: list[str]) -> Launched:
    """Runs a sweeper that proposes jobs while others run. A wrong or failed job may end it; the table comes anyway."""
    try:
        sweeper.sweep(arguments=overrides)
    except RunError as error:
        print_lines([str(error), "the search ended here"])
        return Launched({-1: error.code})
    except KeyboardInterrupt:
        return Launched({}, stopped_by="SIGINT")
    return Launched({})


def run_unfinished(launcher: Any, task: SweepTask) -> Launched:
    """Launches all unfinished jobs; then those that another process was training, once it has stopped."""
    left, codes = task.jobs, dict[int, int]()
    while True:
        states = {row.number: row.state for row in outcome.rows(task.root)}
        todo = [job for job in left if states[job.number] != "DONE"]
        busy = [] if _is_slurm(launcher) else [job for job in todo if states[job.number] == "RUNNING"]
        ready = [job for job in todo if job not in busy]
        jobs, num_done = counted(len(left), "job"), len(left) - len(todo)
        log.info("%s: %s, %d done, %d to do", _relative(task.root), jobs, num_done, len(todo))
        launched = launch(launcher, ready) if ready else Launched({})
        codes |= launched.codes
        if not busy or launched.stopped_by or not launched.waited:
            return Launched(codes, launched.stopped_by, launched.waited)
        numbers = [job.number for job in busy]
        log.info("waiting for job %s, which another process trains", ", ".join(map(str, numbers)))
        try:
            while any(row.state == "RUNNING" for row in outcome.rows(task.root) if row.number in numbers):
                time.sleep(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            return Launched(codes, stopped_by="SIGINT")
        left = busy


def launch(launcher: Any, jobs: Sequence[Job]) -> Launched:
    try:
        if hasattr(launcher, "launch_jobs"):
            launched: Launched = launcher.launch_jobs(jobs)
            return launched
        for some in _consecutive(jobs):  # not one of ours: it counts its jobs from the number that it is given
            launcher.launch([list(job.overrides) for job in some], initial_job_idx=some[0].number)
    except Preempted as stop:
        return Launched({}, stopped_by=stop.reason)
    except KeyboardInterrupt:
        return Launched({}, stopped_by="SIGINT")
    return Launched({})


def print_result(
    root: Path, numbers: Sequence[int], launched: Launched, *, typed: Sequence[str], again: str = ""
) -> int:
    """Prints the table, the failures and the next command; the exit code of the jobs with these numbers.

    Args:
        again: the command that continues the sweep; by default a retry of what is left.
    """
    rows = outcome.rows(root)
    table.show_results(rows, root)
    chosen = [row for row in rows if row.number in set(numbers)]
    lines, anew = [f"sweep: {_relative(root)}"], [word for word in typed if word.lstrip("+").startswith(TYPED_ANEW)]
    left = [row for row in chosen if row.state not in ("DONE", *outcome.BAD)]
    if any(row.state in outcome.BAD for row in chosen):
        lines.append(f"to retry what failed: {sweep_command('retry', root, *anew)}")
    if launched.waited and (launched.stopped_by or left):
        stopped = f"stopped by {launched.stopped_by}: " if launched.stopped_by else ""
        lines += [f"{stopped}{len(left)} of {counted(len(chosen), 'job')} not finished; to continue:"]
        lines.append(again or sweep_command("retry", root, *(str(row.number) for row in left), *anew))
    print_lines(lines)
    return (outcome.worst(chosen) or launched.codes.get(-1, 0)) if launched.waited else 0


def print_lines(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def command_to_continue_sweep(root: Path, typed: Sequence[str], *, script: str) -> str:
    """The line to type to continue a sweep that was started with the words `typed`."""
    kept = [word for word in typed if not word.lstrip("+").startswith(("resume=", "hydra.sweep.dir="))]
    return command_to_continue(_relative(root), overrides=kept, key="hydra.sweep.dir", script=script)


def sweep_command(verb: str, root: Path, *more: str) -> str:
    """The line to type for scripts/sweep.py, from the script that runs now."""
    script = Path(sys.argv[0])
    folder = script.parent if script.parent.name == "scripts" else script.parent / "scripts"
    script = folder / "sweep.py"
    return shlex.join(["python", str(script), verb, str(_relative(root)), *more])


@contextmanager
def running(root: Path) -> Iterator[None]:
    """One process at a time starts jobs of a sweep. Raises Locked, and CannotWrite for links that lead out of it."""
    storage.make_folder(root)
    require_plain_folder(root)
    try:
        with lock.holding(root):
            yield
    except Locked as error:
        if str(root) not in str(error).partition(":")[0]:
            raise
        who = str(error).partition(": ")[2]
        hint = f"wait for it, or look: {sweep_command('status', root)}"
        raise Locked(f"another process runs the sweep {root}: {who}", hint=hint) from None


def _consecutive(jobs: Sequence[Job]) -> list[list[Job]]:
    """Groups of jobs with consecutive numbers."""
    groups: list[list[Job]] = []
    for job in jobs:
        if groups and job.number == groups[-1][-1].number + 1:
            groups[-1].append(job)
        else:
            groups.append([job])
    return groups


def _is_slurm(launcher: Any) -> bool:
    """Slurm itself knows what runs, also what another process submitted; its launcher waits for that."""
    return "slurm" in type(launcher).__name__.lower()


def _relative(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
