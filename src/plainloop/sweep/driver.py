"""A checked sweep, brought to its end: what is done is left out, the rest goes to the launcher, and one table says
what became of each job, whatever it was."""

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
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from plainloop.config.compose.composer import Composer
from plainloop.errors import Locked, Preempted, RunError
from plainloop.run_dir.status import command_to_continue
from plainloop.sweep import outcome, table
from plainloop.sweep.check import Job as CheckedJob
from plainloop.sweep.check import Sweep, check_late
from plainloop.sweep.index import config_hash
from plainloop.sweep.job import Job, Launched
from plainloop.sweep.numbering import folder_of, others, settle
from plainloop.sweep.task import Task
from plainloop.system import lock, storage

log = logging.getLogger("plainloop")

_LOOK_S = 1.0  # between two looks at jobs that another process trains


def start(sweep: Sweep, composer: Composer, typed: Sequence[str]) -> int:
    """Does what is left to do of a sweep; the worst exit code of its jobs.

    Args:
        typed: the command line, for the one that continues the sweep.

    Raises InvalidConfig before anything exists, and Locked while another process drives the same sweep.
    """
    root = Path(str(sweep.master.hydra.sweep.dir))
    jobs = [_job(place, checked, root) for place, checked in enumerate(sweep.jobs)]
    root = folder_of(sweep.master, jobs)
    master = _in_folder(sweep.master, root)
    jobs = [job.moved_to(root) for job in jobs]
    task = Task(root, jobs, late=lambda texts: settle(root, [_job(0, check_late(composer, master, texts), root)])[0])
    context = HydraContext(config_loader=composer.loader, callbacks=Callbacks(master))
    setup_globals()
    HydraConfig.instance().set_config(master)
    decided = bool(sweep.jobs)  # else a sweeper thinks of jobs while others run
    plugins: Any = Plugins.instance()
    make = plugins.instantiate_launcher if decided else plugins.instantiate_sweeper
    plugin = make(hydra_context=context, task_function=task, config=master)
    with driving(root):
        context.callbacks.on_multirun_start(config=master, config_name=composer.config_name)
        configure_log(master.hydra.hydra_logging, master.hydra.verbose)
        storage.write_whole(root / "multirun.yaml", OmegaConf.to_yaml(master).encode())
        if decided:
            task.jobs = settle(root, task.jobs)
            if count := others(root, task.jobs):
                log.info("%d jobs of %s are not part of this command; they stay as they are", count, root)
            launched = bring_to_an_end(plugin, task)
        else:
            launched = search(plugin, list(master.hydra.overrides.task))
        context.callbacks.on_multirun_end(config=master, config_name=composer.config_name)
    return tell(root, [job.number for job in task.jobs], launched, again=sweep_command(root, typed))


def search(sweeper: Any, overrides: list[str]) -> Launched:
    """Lets a sweeper think of jobs while others run. One that is wrong or failed may end it; the table comes anyway."""
    try:
        sweeper.sweep(arguments=overrides)
    except RunError as error:
        say([str(error), "the search ended here"])
        return Launched({-1: error.code})
    except KeyboardInterrupt:
        return Launched({}, stopped_by="SIGINT")
    return Launched({})


def bring_to_an_end(launcher: Any, task: Task) -> Launched:
    """Hands over everything that is not done; then what another process had in its hands, once it has let go of it."""
    left, codes = task.jobs, dict[int, int]()
    while True:
        states = {row.number: row.state for row in outcome.rows(task.root)}
        todo = [job for job in left if states[job.number] != "DONE"]
        busy = [] if _is_slurm(launcher) else [job for job in todo if states[job.number] == "RUNNING"]
        ready = [job for job in todo if job not in busy]
        log.info("%s: %d jobs, %d done, %d to do", _shown(task.root), len(left), len(left) - len(todo), len(todo))
        launched = hand_over(launcher, ready) if ready else Launched({})
        codes |= launched.codes
        if not busy or launched.stopped_by or not launched.waited:
            return Launched(codes, launched.stopped_by, launched.waited)
        numbers = [job.number for job in busy]
        log.info("waiting for job %s, which another process trains", ", ".join(map(str, numbers)))
        try:
            while any(row.state == "RUNNING" for row in outcome.rows(task.root) if row.number in numbers):
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            return Launched(codes, stopped_by="SIGINT")
        left = busy


def hand_over(launcher: Any, jobs: Sequence[Job]) -> Launched:
    if hasattr(launcher, "launch_jobs"):
        launched: Launched = launcher.launch_jobs(jobs)
        return launched
    try:  # Hydra's own, or a stranger's: it counts its jobs from the number that it is given
        for some in _in_a_row(jobs):
            launcher.launch([list(job.overrides) for job in some], initial_job_idx=some[0].number)
    except Preempted as stop:
        return Launched({}, stopped_by=stop.reason)
    except KeyboardInterrupt:
        return Launched({}, stopped_by="SIGINT")
    return Launched({})


def tell(root: Path, numbers: Sequence[int], launched: Launched, *, again: str) -> int:
    """The table, what failed, and what to type next; the exit code of the jobs of that numbers."""
    rows = outcome.rows(root)
    table.show(rows)
    mine = [row for row in rows if row.number in set(numbers)]
    lines = [f"sweep: {_shown(root)}"]
    left = [row for row in mine if row.state not in ("DONE", *outcome.BAD)]
    if any(row.state in outcome.BAD for row in mine):
        lines.append(f"to try again what failed: {tool('retry', root)}")
    if launched.waited and (launched.stopped_by or left):
        stopped = f"stopped by {launched.stopped_by}: " if launched.stopped_by else ""
        lines += [f"{stopped}{len(left)} of {len(mine)} jobs are left to do; to go on:", again]
    say(lines)
    return (outcome.worst(mine) or launched.codes.get(-1, 0)) if launched.waited else 0


def say(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def sweep_command(root: Path, typed: Sequence[str], *, train: str = "") -> str:
    """The line that continues a sweep."""
    kept = [word for word in typed if not word.lstrip("+").startswith(("resume=", "hydra.sweep.dir="))]
    return command_to_continue(_shown(root), overrides=kept, key="hydra.sweep.dir", script=train or sys.argv[0])


def tool(verb: str, root: Path) -> str:
    script = Path(sys.argv[0]).parent / ("sweep.py" if Path(sys.argv[0]).name == "sweep.py" else "scripts/sweep.py")
    return shlex.join(["python", str(script), verb, str(_shown(root))])


@contextmanager
def driving(root: Path) -> Iterator[None]:
    """One process at a time starts jobs of a sweep. Raises Locked."""
    storage.make_folder(root)
    try:
        with lock.holding(root):
            yield
    except Locked as error:
        if str(root) not in str(error).partition(":")[0]:
            raise
        who = str(error).partition(": ")[2]
        hint = f"wait for it, or look: {tool('status', root)}"
        raise Locked(f"another process drives the sweep {root}: {who}", hint=hint) from None


def _job(place: int, one: CheckedJob, root: Path) -> Job:
    config = one.checked.config
    subdir = str(one.folder.relative_to(root))
    return Job(place, one.overrides, one.folder.absolute(), subdir, config, one.frozen, config_hash(config))


def _in_folder(master: DictConfig, root: Path) -> DictConfig:
    with read_write(master.hydra), open_dict(master.hydra):
        master.hydra.sweep.dir = str(root)
    return master


def _in_a_row(jobs: Sequence[Job]) -> list[list[Job]]:
    """Cut where a number is left out."""
    found: list[list[Job]] = []
    for job in jobs:
        if found and job.number == found[-1][-1].number + 1:
            found[-1].append(job)
        else:
            found.append([job])
    return found


def _is_slurm(launcher: Any) -> bool:
    """Slurm itself says what runs, also what another process submitted; its launcher takes those up."""
    return "slurm" in type(launcher).__name__.lower()


def _shown(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
