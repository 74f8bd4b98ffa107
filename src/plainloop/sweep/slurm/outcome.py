"""The status of a job, merged from what its run has written and what Slurm says."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from plainloop.errors import Preempted, RunError
from plainloop.run_dir.status import Status
from plainloop.sweep.slurm import client, submitted
from plainloop.sweep.slurm.client import SlurmState
from plainloop.system import storage

# Slurm's states of a run that could not write its own end -> the reason in one word.
_FAILED = {
    "FAILED": "killed",
    "TIMEOUT": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",  # not requeued: where PreemptMode is CANCEL
}
_MEMORY = re.compile(rb"slurmstepd.*(exceeded memory limit|oom[-_ ]kill|Out Of Memory)", re.IGNORECASE)
_LAST_BYTES = 20_000
_NO_LOG = "0:53"  # how Slurm ends a job whose log file cannot be made


def statuses(sweep: Path, written: Mapping[int, Status]) -> dict[int, Status]:
    """The sweep's statuses, corrected by what Slurm knows of those that were submitted.

    On a machine without Slurm the files alone say it. Raises SlurmError when Slurm does not answer.
    """
    submissions = submitted.read(sweep) if shutil.which("squeue") else {}
    ids = {number: submissions[number] for number in written if number in submissions}
    ids = {number: job for number, job in ids.items() if written[number].state != "DONE"}
    seen = client.states(ids.values()) if ids else {}
    without_end = {job: number for number, job in ids.items() if written[number].state not in ("FAILED", "CANCELLED")}
    killed = [job for job in without_end if seen[job].state in _FAILED]
    seen |= client.accounted(killed) if killed else {}
    logs = submitted.logs(sweep) if killed else {}
    for job in killed:
        if seen[job].state == "FAILED" and memory_ran_out(logs[without_end[job]]):
            seen[job] = replace(seen[job], state="OUT_OF_MEMORY")
    merged = {number: merged_status(written[number], seen[job], job=job) for number, job in ids.items()}
    return {**written, **merged}


def merged_status(written: Status, seen: SlurmState, *, job: str) -> Status:
    """
    >>> merged_status(Status("RUNNING"), SlurmState("NODE_FAIL"), job="12").reason
    'node_fail'
    >>> merged_status(Status("RUNNING"), SlurmState("PENDING"), job="12").state  # requeued
    'PREEMPTED'
    """
    if written.state == "DONE" or seen.state == "UNKNOWN":
        return written
    if seen.state == "PENDING":
        requeued = written.state in ("PREEMPTED", "RUNNING", "LOST")
        reason = seen.reason if seen.reason not in ("None", "") else "queued"
        return replace(written, state="PREEMPTED" if requeued else "PENDING", reason=reason, hint="", exit_code=None)
    if not seen.ended:
        if written.state in ("RUNNING", "LOST") or seen.state == "COMPLETING":
            return written
        return replace(written, state="RUNNING", reason="starting", hint="", exit_code=None)
    if written.state in ("FAILED", "CANCELLED"):
        return written
    if seen.state == "CANCELLED":
        return replace(written, state="CANCELLED", reason="scancel", exit_code=Preempted.code)
    if seen.state in _FAILED:
        reason, hint = _FAILED[seen.state], f"sacct -j {job}"
        why = in_words(seen)
        return replace(written, state="FAILED", reason=reason, message=why, hint=hint, exit_code=RunError.code)
    return written


def memory_ran_out(log: Path) -> bool:
    """Whether Slurm says so in the job's log: not every site's accounting knows."""
    try:
        with open(storage.open_file(log, os.O_RDONLY), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_BYTES))
            return _MEMORY.search(file.read()) is not None
    except OSError:
        return False


def in_words(seen: SlurmState) -> str:
    """How Slurm ended a job whose run has not written its own end.

    >>> in_words(SlurmState("OUT_OF_MEMORY", exit_code="0:125")), in_words(SlurmState("FAILED", exit_code="127:0"))
    ('Slurm says OUT_OF_MEMORY', 'exit code 127 before the run began; its log says more')
    """
    if seen.exit_code == _NO_LOG:
        return "the node could not write the log: is the sweep's folder on a file system that every node sees?"
    code, _, signal = seen.exit_code.partition(":")
    if seen.state != "FAILED" or not seen.exit_code:
        return f"Slurm says {seen.state}"
    if signal not in ("", "0"):
        return f"ended by signal {signal}"
    return f"exit code {code} before the run began; its log says more"


def exit_code(status: Status) -> int:
    """0 for a finished run; else what the run has written, or the code of unexpected errors."""
    return 0 if status.state == "DONE" else status.exit_code or RunError.code
