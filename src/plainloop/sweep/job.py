"""One job of a sweep: what was checked, and how it becomes a run in the process that it was given."""

from __future__ import annotations

import logging
import multiprocessing.util
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from plainloop.errors import Preempted, RunError

log = logging.getLogger("plainloop")

INTERRUPTED = 130  # as shells count it: 128 + SIGINT


@dataclass(frozen=True)
class Job:
    """Frozen when the sweep is checked: later edits of conf/ reach no job.

    Args:
        number: in the sweep, from 0; it stays with the config when values are added.
        folder: the run directory, absolute.
        subdir: where that lies below the sweep's folder.
        config: checked and resolved.
        frozen: as composed, pickled, Hydra's own node included, nothing resolved.
        hash: what the job is known by (index.config_hash).
    """

    number: int
    overrides: tuple[str, ...]
    folder: Path
    subdir: str
    config: dict[str, Any] = field(repr=False)
    frozen: bytes = field(repr=False)
    hash: str = ""

    def composed(self, sweep: Path | None = None) -> DictConfig:
        """As Hydra's `run_job` takes it, in the folder that it has in `sweep`; `.hydra/` is that of the first start."""
        config: DictConfig = pickle.loads(self.frozen)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num, config.hydra.job.id = self.number, str(self.number)
            if sweep is not None:
                config.hydra.sweep.dir, config.hydra.sweep.subdir = str(sweep), str(self.folder.relative_to(sweep))
            if (self.folder / ".hydra").exists():
                config.hydra.output_subdir = None
        return config

    def moved_to(self, root: Path) -> Job:
        """The same in another sweep's folder."""
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
    """What a launcher has to say of the jobs that it was given; the rest is in their files.

    Args:
        codes: exit codes by job number, of those that have ended.
        stopped_by: name of the signal that ended the sweep early; "" when none did.
        waited: False when jobs go on without this process.
    """

    codes: Mapping[int, int]
    stopped_by: str = ""
    waited: bool = True


def run_as_hydra_job(job: Job, sweep: Path, *, quiet: bool) -> int:
    """The run's exit code. Hydra makes the folder, `.hydra/` and the log; `quiet` keeps the log off the screen."""
    setup_globals()  # in a process of its own nobody has done it
    config = job.composed(sweep)
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
    code: int = done.return_value  # raises what Hydra's own part could not do
    return code


def train(config: dict[str, Any], folder: Path) -> int:
    """One run to its end. Whatever ends it is in the job's log, and its code is what this gives."""
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
    return 0


def leave_quietly() -> None:
    """What a process that was forked must do before os._exit: nothing of its parent's, all of its own."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]  # ends and joins what multiprocessing started here
