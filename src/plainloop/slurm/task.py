"""What every task of a Slurm job calls: one rank of one run, with the config as it was at submission."""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, read_write

from plainloop.config.continuing import is_finished
from plainloop.errors import Preempted, RunError
from plainloop.slurm import leave
from plainloop.slurm.place import take_place
from plainloop.slurm.sources import Snapshot

log = logging.getLogger("plainloop")


@dataclass(frozen=True)
class Task:
    """Pickled at submission; submitit unpickles and calls it in each task of the job, again after each requeueing.

    Args:
        config: checked and resolved.
        composed: as Hydra composed it, for `.hydra/` and the log.
        folder: the run directory, absolute.
        sources: the code at submission.
    """

    config: dict[str, Any]
    composed: DictConfig
    folder: Path
    sources: Snapshot

    def __call__(self) -> None:
        """Leaves by SystemExit with the run's own code unless the run is done."""
        # The batch script starts us so, and the run lets signals through once it has handlers for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, leave.SIGNALS)
        os.umask(os.umask(0o077) | 0o022)
        rank = take_place()
        try:
            status = self.as_hydra_job() if rank == 0 else self.train(rank)
        except Preempted as stop:
            status = leave_job(stop) if rank == 0 else 0  # others wait for nothing: rank 0 ends the job
        logging.shutdown()
        if status:
            raise SystemExit(status)

    def as_hydra_job(self) -> int:
        """Rank 0: Hydra makes `.hydra/`, that of the first start, and the log file."""
        setup_globals()
        config = self.composed
        with read_write(config.hydra):
            if (self.folder / ".hydra").exists():
                config.hydra.output_subdir = None
        done = run_job(
            hydra_context=HydraContext(config_loader=None, callbacks=Callbacks(config)),  # type: ignore[arg-type]
            task_function=lambda _: self.train(0),
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        status: int = done.return_value
        return status

    def train(self, rank: int) -> int:
        """The run; an exit code. Whatever ends it is in the log of this task."""
        if rank:
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"[%(asctime)s][rank {rank}] %(message)s")
        for line in self.sources.differences():
            log.warning("%s", line)
        try:
            if is_finished(self.folder, self.config):
                log.info("done: %s is finished", self.folder)
                return 0
            from plainloop.run import run

            run(self.config | {"resume": None, "check": False}, self.folder)
        except RunError as error:
            log.exception("rank %d: %s%s", rank, error, f"; next: {error.hint}" if error.hint else "")
            return error.code
        except Exception:
            log.exception("rank %d failed", rank)
            return RunError.code
        return 0


def leave_job(stop: Preempted) -> int:
    """On Slurm the launcher decides about requeueing; elsewhere nobody does."""
    return leave.leave(stop) if "SLURM_JOB_ID" in os.environ else stop.code
