"""The local launchers: where on this machine jobs run, and what is said while they do."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.config.explain.problems import invalid_run
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.status import read_status
from plainloop.sweep.job import Job, Launched, run_as_hydra_job
from plainloop.sweep.local.gpu_pool import pool_problems
from plainloop.sweep.local.pool import Pool
from plainloop.system.gpus import visible_gpus

log = logging.getLogger("plainloop")


def places(gpus_per_job: int, slots: int | str, *, configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The GPUs of each job that runs at the same time. Raises InvalidConfig."""
    problems = pool_problems(gpus_per_job, slots, configs)
    if problems:
        raise invalid_run(problems, [])
    gpus = visible_gpus()
    if not gpus and gpus_per_job and slots == "auto":
        log.info("no GPU is visible: one job at a time on the CPU; hydra.launcher.slots=N for N at a time")
    return dealt(gpus, per_job=gpus_per_job, slots=None if slots == "auto" else int(slots))


def dealt(gpus: list[str], *, per_job: int, slots: int | None) -> list[list[str]]:
    """One list of GPUs for each job that runs at the same time; empty ones where there are no GPUs to give.

    >>> dealt(["0", "1", "2"], per_job=1, slots=None), dealt(["0", "1", "2", "3"], per_job=2, slots=None)
    ([['0'], ['1'], ['2']], [['0', '1'], ['2', '3']])
    >>> dealt([], per_job=1, slots=2), dealt(["0", "1"], per_job=1, slots=1), dealt(["0"], per_job=0, slots=2)
    ([[], []], [['0']], [[], []])
    """
    if not gpus or per_job == 0:
        return [[] for _ in range(slots or 1)]
    places = [gpus[start : start + per_job] for start in range(0, len(gpus) - per_job + 1, per_job)]
    return places[:slots] if slots else places


def launch(jobs: Sequence[Job], sweep: Path, given: Sequence[Sequence[str]] | None) -> Launched:
    """Runs the jobs at the places given, or one after the other as single runs do (None)."""
    import torch

    load_what_jobs_need()
    assert not torch.cuda.is_initialized(), "a process that has woken CUDA cannot fork jobs"
    quiet = given is not None and len(given) > 1
    attempts = {job.number: read_status(job.folder).attempt for job in jobs}

    def started(job: Job) -> None:
        log.info("job %d: %s", job.number, " ".join(job.overrides))

    def ended(job: Job, code: int) -> None:
        settle_end(job, code, attempts[job.number])
        if quiet or code:
            log.info("job %d: %s", job.number, _end_of(job))

    pool = Pool(
        places=given or [[]],
        run=lambda job: run_as_hydra_job(job, sweep, quiet=quiet),
        quiet=quiet,
        limit_gpus=given is not None and (any(given) or bool(visible_gpus())),
        started=started,
        ended=ended,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    codes = pool.run_all(jobs)
    gc.unfreeze()
    return Launched(codes, stopped_by=pool.stopped_by)


def load_what_jobs_need() -> None:
    """Once here instead of in every fork, and out of sight of the garbage collector, which would copy it there."""
    for name in ("timm", "plainloop.run.run", "plainloop.run.launch", "plainloop.data.loaders", "rich.progress"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def settle_end(job: Job, code: int, attempt: int) -> None:
    """Says in the job's folder how it ended where the run could not: it died before there was a run."""
    status = read_status(job.folder)
    if code == 0 or status.attempt > attempt:
        return
    journal = Journal(job.folder)
    with journal.locked():
        said = f"ended with exit code {code} before the run began: {_last_line(job.log_file)}"
        state = "CANCELLED" if code in (130, 143) else "FAILED"
        journal.end(state, reason="start", message=said, hint=said, exit_code=code)  # type: ignore[arg-type]


def _last_line(log_file: Path) -> str:
    """Of a traceback it is the one that says what was wrong."""
    lines = log_file.read_text(errors="replace").split("\n") if log_file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing is in the log")


def _end_of(job: Job) -> str:
    from plainloop.sweep import outcome

    row = outcome.row(job.folder, job.number, job.overrides)
    best = outcome.shown_best(row)
    return "  ".join(part for part in (row.state, best, row.why, f"{row.minutes:.1f} min") if part)
