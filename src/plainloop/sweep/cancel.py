"""Stops a sweep from outside, by whatever holds its jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from plainloop.errors import BadConfig
from plainloop.sweep import index, outcome
from plainloop.sweep.slurm import control
from plainloop.system import lock, storage


def cancel(sweep: Path, numbers: Sequence[int] = ()) -> list[str]:
    """What was done, in lines. Running jobs save first. Raises BadConfig and SlurmError."""
    if control.was_submitted(sweep):
        folders = {e.number: sweep / e.folder for e in index.read(sweep) if not numbers or e.number in numbers}
        found = control.cancel(sweep, folders)
        return [f"job {number}: Slurm job {job} cancelled" for number, job in found.items()] or ["nothing to cancel"]
    if numbers:
        raise BadConfig("jobs of a local sweep are cancelled together", hint="leave the numbers out")
    holder = storage.read_json(sweep / "run.lock") or {}
    alive = lock.is_alive(holder)
    if alive is None:
        where = holder.get("host", "another machine")
        raise BadConfig(f"the sweep may run on {where}, out of sight from here", hint=f"type this on {where}")
    if not alive or lock.is_held(sweep) is False:
        return _stop_jobs(sweep) or ["nothing to cancel: no process drives this sweep, and no job runs"]
    os.kill(int(holder["pid"]), signal.SIGTERM)
    return [f"process {holder['pid']} was told to save and stop"]


def _stop_jobs(sweep: Path) -> list[str]:
    """Those that outlived the process that started them."""
    running = {row.number: row.status for row in outcome.rows(sweep) if row.state == "RUNNING"}
    mine = {number: status.pid for number, status in running.items() if lock.is_alive(vars(status))}
    for pid in mine.values():
        os.kill(pid, signal.SIGTERM)
    return [f"job {number}: process {pid} was told to save and stop" for number, pid in mine.items()]
