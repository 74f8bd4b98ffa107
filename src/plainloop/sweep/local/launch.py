"""The local launchers: runs jobs as forks of this process, and logs how each ends."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from plainloop.errors import Locked
from plainloop.run_dir.status import read_status, write_end
from plainloop.sweep import outcome
from plainloop.sweep.job import INTERRUPTED, Job, Launched, run_as_hydra_job
from plainloop.sweep.local.pool import Pool
from plainloop.system import lock, storage
from plainloop.system.gpus import visible_gpus

log = logging.getLogger("plainloop")

_TERMINATED = 143  # 128 + SIGTERM


def launch(jobs: Sequence[Job], sweep: Path, slots: Sequence[Sequence[str]] | None) -> Launched:
    """Runs the jobs on the GPUs of the slots, or one after the other as single runs do (None)."""
    import torch

    import_what_jobs_need()
    assert not torch.cuda.is_initialized(), "a process that has initialised CUDA can no longer fork jobs"
    quiet = slots is not None and len(slots) > 1
    attempts = {job.number: read_status(job.folder).attempt for job in jobs}

    def ended(job: Job, code: int) -> None:
        record_early_death(job, code, attempts[job.number])
        if quiet or code:
            row = outcome.row(job.folder, job.number, job.overrides)
            words = (row.state, outcome.shown_best(row), row.why, f"{row.minutes:.1f} min")
            log.info("job %d: %s", job.number, "  ".join(filter(None, words)))

    pool = Pool(
        slots=slots or [[]],
        run=lambda job: run_as_hydra_job(job, sweep, quiet=quiet),
        quiet=quiet,
        limit_gpus=slots is not None and (any(slots) or bool(visible_gpus())),
        started=lambda job: log.info("job %d: %s", job.number, " ".join(job.overrides)),
        ended=ended,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    codes = pool.run_all(jobs)
    gc.unfreeze()
    return Launched(codes, stopped_by=pool.stopped_by)


def import_what_jobs_need() -> None:
    """Imports once, before the forks, and hides it from the garbage collector, which would copy its memory."""
    for name in ("timm", "plainloop.run.run", "plainloop.run.launch", "plainloop.data.loaders", "rich.progress"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def record_early_death(job: Job, code: int, attempt: int) -> None:
    """Writes the status of a job that died before its run began; a run that has begun writes its own.

    Args:
        attempt: the job's last attempt before this one.
    """
    if code == 0 or read_status(job.folder).attempt > attempt:
        return
    message = f"ended with exit code {code} before the run began: {_last_line(job.log_file)}"
    state = "CANCELLED" if code in (INTERRUPTED, _TERMINATED) else "FAILED"
    storage.make_folder(job.folder)
    with contextlib.suppress(Locked), lock.holding(job.folder):
        write_end(job.folder, state, reason="start", message=message, hint=message, exit_code=code)  # type: ignore[arg-type]


def _last_line(log_file: Path) -> str:
    """The last line of a traceback says what was wrong."""
    lines = log_file.read_text(errors="replace").split("\n") if log_file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "the log is empty")
