"""One job of a sweep, how it becomes a run in its process, and what Hydra's launchers and sweepers are given."""

from __future__ import annotations

import logging
import multiprocessing.util
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from plainloop.config.compose.job_environment import set_secrets
from plainloop.errors import Preempted, RunError
from plainloop.sweep import outcome
from plainloop.system.folders import require_plain_folder

log = logging.getLogger("plainloop")

INTERRUPTED = 130  # as shells count it: 128 + SIGINT


@dataclass(frozen=True)
class Job:
    """Frozen when the sweep is checked: later edits of conf/ do not reach it.

    Args:
        number: in the sweep, from 0; first its place in the command, later that of its line in jobs.jsonl.
        folder: the run directory, absolute.
        subdir: the same, relative to the sweep's folder.
        config: checked and resolved.
        frozen: the composed config with Hydra's own node, unresolved and pickled (a hundredth of its size in memory).
        hash: identifies the job (index.config_hash).
    """

    number: int
    overrides: tuple[str, ...]
    folder: Path
    subdir: str
    config: dict[str, Any] = field(repr=False)
    frozen: bytes = field(repr=False)
    hash: str = ""

    def composed(self, sweep: Path | None = None) -> DictConfig:
        """The config as Hydra's `run_job` takes it, for the folder that the job has in `sweep`.

        An existing `.hydra/` is kept: it is that of the first start.
        """
        config: DictConfig = pickle.loads(self.frozen)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num, config.hydra.job.id = self.number, str(self.number)
            if sweep is not None:
                config.hydra.sweep.dir, config.hydra.sweep.subdir = str(sweep), str(self.folder.relative_to(sweep))
            if (self.folder / ".hydra").exists():
                config.hydra.output_subdir = None
        return config

    def moved_to(self, root: Path) -> Job:
        """The same job in another sweep's folder."""
        return replace(self, folder=root / self.subdir)

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.composed().hydra.job.name}.log"

    @property
    def num_processes(self) -> int:
        devices = self.config["trainer"]["devices"]
        return len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else 1


@dataclass(frozen=True)
class Launched:
    """What a launcher reports; the rest is in the jobs' files.

    Args:
        codes: exit codes by job number, of the jobs that have ended.
        stopped_by: name of the signal that ended the sweep early; "" when none did.
        waited: False when jobs go on without this process.
    """

    codes: Mapping[int, int]
    stopped_by: str = ""
    waited: bool = True


class SweepTask:
    """The task function of a sweep: our launchers read its jobs, Hydra's own call it.

    Args:
        root: the sweep's folder, absolute.
        jobs: checked; `driver` gives them their numbers and folders.
        add: composes, checks and records a job that a sweeper proposes while the sweep runs.
    """

    def __init__(self, root: Path, jobs: Sequence[Job], add: Callable[[tuple[str, ...]], Job]) -> None:
        self.root, self.jobs, self._add = root, list(jobs), add

    @property
    def configs(self) -> list[Mapping[str, Any]]:
        return [job.config for job in self.jobs]

    def __call__(self, composed: DictConfig) -> float | None:
        """For launchers that do not take our jobs; what they composed again is ignored."""
        hydra = HydraConfig.get()
        number = int(hydra.job.num)
        job = next((job for job in self.jobs if job.number == number), None) or self.proposed(hydra.overrides.task)
        train(job.config, job.folder)
        return self._score(job)

    def proposed(self, overrides: Sequence[str]) -> Job:
        """The job of these overrides, added to the sweep unless it is there. Raises InvalidConfig."""
        job = self._add(tuple(overrides))
        if all(job.number != known.number for known in self.jobs):
            self.jobs.append(job)
        return job

    def returned(self, job: Job) -> JobReturn:
        """The result for a sweeper: the best metric, or an error."""
        row = outcome.row(job.folder, job.number, job.overrides)
        if row.state == "DONE":
            return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=self._score(job))
        error = RunError(f"job {job.number} is {row.state}: {row.why}")
        return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=error)

    def _score(self, job: Job) -> float | None:
        best = outcome.row(job.folder, job.number, job.overrides).best
        return best["value"] if best else None


def run_as_hydra_job(job: Job, sweep: Path, *, quiet: bool) -> int:
    """The run's exit code. Hydra makes the folder, `.hydra/` and the log; `quiet` keeps the log off the screen."""
    setup_globals()  # a new process has not called it
    config = job.composed(sweep)
    set_secrets(config.hydra)
    require_plain_folder(job.folder)
    if quiet:
        with read_write(config.hydra):
            root = config.hydra.job_logging.get("root")
            if root is not None and "handlers" in root:
                root.handlers = [name for name in root.handlers if name != "console"]
    done = run_job(
        hydra_context=HydraContext(config_loader=None, callbacks=Callbacks(config)),  # type: ignore[arg-type]
        task_function=lambda _: train(job.config, job.folder),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    code: int = done.return_value  # raises the error of Hydra's own part
    return code


def train(config: dict[str, Any], folder: Path) -> int:
    """Runs to the end, logs every error, and returns the exit code."""
    from plainloop.loggers.console import closing_lines
    from plainloop.run.launch import start

    try:
        summary = start(config | {"resume": None, "check": False}, folder)
    except RunError as error:
        log.error("%s%s", error, f"\nnext: {error.hint}" if error.hint else "")
        return error.code
    except Preempted as stop:
        log.info("%s", stop)
        return stop.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        log.exception("failed")
        return RunError.code
    for line in closing_lines(summary, folder) if summary else ():  # ranks other than 0 have none
        log.info(line)
    if summary and config["report"] == "always":
        from plainloop.report.run.page import report_at_the_end

        report_at_the_end(folder)
    return 0


def leave_quietly() -> None:
    """Ends what a forked process itself has started; called before os._exit."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]  # joins what multiprocessing started here
