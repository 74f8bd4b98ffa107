"""What every task of a Slurm job calls: one rank of one run, with the config as it was at submission."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.config.compose.resume import is_finished
from plainloop.errors import LostPeer, Preempted
from plainloop.sweep.slurm.leave import leave, wait_for_slurm
from plainloop.sweep.slurm.place import take_place
from plainloop.sweep.slurm.sources import Snapshot
from plainloop.system.signals import SIGNALS

log = logging.getLogger("plainloop")


@dataclass(frozen=True)
class Task:
    """Pickled at submission; submitit unpickles and calls it in each task of the job, again after each requeueing.

    Args:
        rank_0: trains, in Hydra's folder and with its log; an exit code.
        others: trains as another rank; an exit code.
        folder: the run directory, absolute.
        config: checked and resolved.
        sources: the code at submission.
    """

    rank_0: Callable[[], int]
    others: Callable[[], int]
    folder: Path
    config: Mapping[str, Any]
    sources: Snapshot

    def __call__(self) -> None:
        """Leaves by SystemExit with the run's own code unless the run is done."""
        # The batch script starts us so, and the run lets signals through once it has handlers for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.umask(os.umask(0o077) | 0o022)
        rank = take_place()
        form = f"[%(asctime)s][rank {rank}] %(message)s"  # rank 0 changes to Hydra's when it has its folder
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=form)
        for line in self.sources.differences() if rank == 0 else ():
            log.warning("%s", line)
        if is_finished(self.folder, self.config):
            log.info("done: %s is finished", self.folder)
            return
        status = self.rank_0() if rank == 0 else self.others()
        if status == Preempted.code:
            # Others leave without a word: rank 0 ends the job. Outside of Slurm nothing requeues.
            status = 0 if rank else leave(self.folder) if "SLURM_JOB_ID" in os.environ else status
        if status == LostPeer.code and int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) > 1:
            wait_for_slurm()
        logging.shutdown()
        if status:
            raise SystemExit(status)
