"""How a job that was asked to stop leaves: here alone it is decided whether it comes back."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path

from plainloop.errors import NoProgress, Preempted
from plainloop.run_dir.journal import ATTEMPTS
from plainloop.run_dir.status import command_to_continue, read_status, write_end
from plainloop.sweep.slurm import client
from plainloop.system import storage

log = logging.getLogger("plainloop")

SLURMD_TIMEOUT_S = 300  # Slurm's default
ENDING_S = 90  # Slurm ends a requeued job at once; this long it may take on a busy controller


def leave(folder: Path) -> int:
    """Rank 0's exit code after the run has saved and stopped. Called with SIGNALS blocked: nothing ends us halfway.

    One rule: a job that Slurm calls RUNNING was warned (time limit, preemption with a user signal, somebody's signal)
    or has its grace time, and asks for its requeueing itself. In every other state Slurm has decided already.
    """
    job = os.environ["SLURM_JOB_ID"]
    step = read_status(folder).step
    vain = in_vain(folder)
    if vain >= ATTEMPTS:
        error = NoProgress(f"{vain} attempts in a row were stopped at step {step}, where they had begun: not requeued")
        hint = "give it more time (hydra.launcher.timeout_min, signal_delay_s), then start the same command again"
        write_end(folder, "FAILED", reason=error.reason, message=str(error), hint=hint, exit_code=error.code)
        log.error("%s; %s", error, hint)
        return error.code
    shown = client.show(job)
    state = shown["JobState"]
    if state == "RUNNING":
        client.requeue(job)
        log.info("stopped after step %d, saved and requeued (Slurm job %s)", step, job)
        signal.sigtimedwait({signal.SIGTERM}, ENDING_S)
        return Preempted.code
    if int(shown.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        log.info("stopped after step %d and saved; Slurm has requeued job %s", step, job)
        return Preempted.code
    ended = client.accounted([job]).get(job, client.Seen(state)).state
    if ended == "TIMEOUT":
        client.requeue(job)
        log.info("stopped at the time limit after step %d, saved and requeued (Slurm job %s)", step, job)
        return Preempted.code
    if ended == "CANCELLED":
        plugins = read_status(folder).plugins
        hint = command_to_continue(folder, plugins=plugins.split(",") if plugins else [])
        write_end(folder, "CANCELLED", reason="scancel", hint=hint, exit_code=Preempted.code)
    log.info("stopped after step %d and saved; Slurm says %s: job %s does not come back", step, ended, job)
    return Preempted.code


def wait_for_slurm() -> None:
    """Waits for TERM, after other ranks have gone: Slurm needs its SlurmdTimeout to see that a node has died, and
    requeues only a job that is still there. For a rank that was killed srun sends TERM at once.
    """
    given = re.match(r"\d+", client.setting("SlurmdTimeout"))
    seconds = int(given[0]) if given else SLURMD_TIMEOUT_S
    log.info("other ranks have gone; waiting up to %d s for what Slurm says to that", seconds + ENDING_S)
    signal.sigtimedwait({signal.SIGTERM}, seconds + ENDING_S)


def in_vain(folder: Path) -> int:
    """Attempts in a row, the latest ones, that were asked to stop before they had got past the step they began at."""
    rows = storage.read_lines(folder / "attempts.jsonl")
    begun = {row["attempt"]: row["step"] for row in rows if "started" in row}
    count = 0
    for row in reversed([row for row in rows if "ended" in row]):
        if row["state"] != "PREEMPTED" or row["step"] > begun.get(row["attempt"], -1):
            break
        count += 1
    return count
