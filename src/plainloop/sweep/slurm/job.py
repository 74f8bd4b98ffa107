"""A job of Slurm: what each of its tasks calls, and how a job that was asked to stop leaves."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plainloop.config.compose.resume import is_finished
from plainloop.errors import LostPeer, NoProgress, Preempted
from plainloop.run_dir.journal import ATTEMPTS
from plainloop.run_dir.status import command_to_continue, read_status, write_end
from plainloop.sweep.job import Job, run_as_hydra_job, train
from plainloop.sweep.slurm import client
from plainloop.sweep.slurm.place import set_rank_variables
from plainloop.system import storage
from plainloop.system.signals import SIGNALS

log = logging.getLogger("plainloop")

SLURMD_TIMEOUT_S = 300  # Slurm's default
ENDING_S = 90  # Slurm ends a requeued job at once; a busy controller may take this long
_SHOWN = 8  # changed files in one message


@dataclass(frozen=True)
class SlurmJob:
    """Pickled at submission; submitit unpickles and calls it in each task of the job, and again after each requeue.

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
    sources: Sources

    def __call__(self) -> None:
        """Leaves by SystemExit with the run's own code unless the run is finished."""
        # The batch script starts Python like this; the run unblocks the signals once it has handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.umask(os.umask(0o077) | 0o022)
        rank = set_rank_variables()
        form = f"[%(asctime)s][rank {rank}] %(message)s"  # rank 0 changes to Hydra's when it has its folder
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=form)
        for line in self.sources.differences() if rank == 0 else ():
            log.warning("%s", line)
        if is_finished(self.folder, self.config):
            log.info("done: %s is finished", self.folder)
            return
        status = self.rank_0() if rank == 0 else self.others()
        if status == Preempted.code:
            # Other ranks leave silently: rank 0 ends the job. Outside of Slurm nothing requeues.
            status = 0 if rank else requeue_or_stop(self.folder) if "SLURM_JOB_ID" in os.environ else status
        if status == LostPeer.code and int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) > 1:
            wait_for_slurm()
        logging.shutdown()
        if status:
            raise SystemExit(status)


@dataclass(frozen=True)
class Sources:
    """A digest for each Python file of our packages, by its path."""

    root: Path
    digests: dict[str, str]

    def differences(self) -> list[str]:
        """One line when files were changed, added or deleted since; else none."""
        now = read_sources(self.root).digests
        changed = sorted(path for path in self.digests.keys() | now.keys() if self.digests.get(path) != now.get(path))
        if not changed:
            return []
        shown = ", ".join(changed[:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        return [f"the code has changed since this job was submitted: {shown} below {self.root}; it runs as it is now"]


def read_sources(root: Path | None = None) -> Sources:
    """The sources now. `root` is the folder of our packages."""
    root = root or Path(__file__).resolve().parents[3]
    files = [file for package in ("plainloop", "hydra_plugins") for file in sorted((root / package).rglob("*.py"))]
    digests = {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return Sources(root, digests)


def slurm_jobs(jobs: Sequence[Job], root: Path) -> dict[int, SlurmJob]:
    """What submitit pickles for each job of a sweep, by number."""
    sources = read_sources()
    return {
        job.number: SlurmJob(
            rank_0=partial(run_as_hydra_job, job, root, quiet=False),
            others=partial(train, job.config, job.folder),
            folder=job.folder,
            config=job.config,
            sources=sources,
        )
        for job in jobs
    }


def requeue_or_stop(folder: Path) -> int:
    """Rank 0's exit code after the run has saved and stopped; only here it is decided whether the job is requeued.

    A job that Slurm calls RUNNING got a warning (time limit, preemption, somebody's signal) or is in its grace time: it
    asks for its own requeue. In every other state Slurm has decided already. Called with SIGNALS blocked.
    """
    job, run = os.environ["SLURM_JOB_ID"], read_status(folder)
    stops = stops_without_progress(folder)
    if stops >= ATTEMPTS:
        error = NoProgress(f"{stops} attempts in a row were stopped at step {run.step}, where they began: not requeued")
        hint = "give it more time (hydra.launcher.timeout_min, signal_delay_s), then start the same command again"
        write_end(folder, "FAILED", reason=error.reason, message=str(error), hint=hint, exit_code=error.code)
        log.error("%s; %s", error, hint)
        return error.code
    shown = client.show(job)
    state = shown["JobState"]
    if state == "RUNNING":
        client.requeue(job)
        log.info("stopped after step %d, saved and requeued (Slurm job %s)", run.step, job)
        signal.sigtimedwait({signal.SIGTERM}, ENDING_S)
        return Preempted.code
    if int(shown.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        log.info("stopped after step %d and saved; Slurm has requeued job %s", run.step, job)
        return Preempted.code
    ended = client.accounted([job]).get(job, client.SlurmState(state)).state
    if ended == "TIMEOUT":
        client.requeue(job)
        log.info("stopped at the time limit after step %d, saved and requeued (Slurm job %s)", run.step, job)
        return Preempted.code
    if ended == "CANCELLED":
        hint = command_to_continue(folder, plugins=run.plugins.split(",") if run.plugins else [])
        write_end(folder, "CANCELLED", reason="scancel", hint=hint, exit_code=Preempted.code)
    log.info("stopped after step %d and saved; Slurm says %s: job %s will not be requeued", run.step, ended, job)
    return Preempted.code


def wait_for_slurm() -> None:
    """Waits for SIGTERM when other ranks have disappeared.

    Slurm needs SlurmdTimeout to notice a dead node, and requeues only a job that is still there. When only a rank was
    killed, srun sends SIGTERM at once.
    """
    timeout = re.match(r"\d+", client.setting("SlurmdTimeout"))
    seconds = (int(timeout[0]) if timeout else SLURMD_TIMEOUT_S) + ENDING_S
    log.info("other ranks have disappeared; waiting up to %d s for Slurm to end or requeue the job", seconds)
    signal.sigtimedwait({signal.SIGTERM}, seconds)


def stops_without_progress(folder: Path) -> int:
    """How many of the latest attempts in a row were asked to stop at the step where they began."""
    rows = storage.read_lines(folder / "attempts.jsonl")
    first_steps = {row["attempt"]: row["step"] for row in rows if "started" in row}
    count = 0
    for row in reversed([row for row in rows if "ended" in row]):
        if row["state"] != "PREEMPTED" or row["step"] > first_steps.get(row["attempt"], -1):
            break
        count += 1
    return count
