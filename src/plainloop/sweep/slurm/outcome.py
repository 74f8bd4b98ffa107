"""What is true of a job, from what its run says of itself and what Slurm says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from plainloop.errors import Preempted, RunError
from plainloop.run_dir.status import Status, read_status
from plainloop.sweep.slurm import client, ledger
from plainloop.sweep.slurm.client import Seen

# How a run that could not say it itself ended: Slurm's states, in one word each.
_FAILED = {
    "FAILED": "killed",
    "TIMEOUT": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",  # for good: where PreemptMode is CANCEL
}
_MEMORY = re.compile(rb"slurmstepd.*(exceeded memory limit|oom[-_ ]kill|Out Of Memory)", re.IGNORECASE)
_LAST_BYTES = 20_000
_NO_LOG = "0:53"  # how Slurm ends what cannot begin since its log cannot be made


def statuses(sweep: Path, said: Mapping[int, Status]) -> dict[int, Status]:
    """The sweep's statuses, corrected by what Slurm knows; as they are where nothing was submitted to Slurm.

    Raises SlurmError when Slurm cannot be asked.
    """
    ids = ledger.read(sweep)
    open_ids = {number: ids[number] for number, status in said.items() if number in ids and status.state != "DONE"}
    seen = client.states(open_ids.values()) if open_ids else {}
    silent = {ids[n]: n for n in open_ids if said[n].state not in ("FAILED", "CANCELLED")}
    killed = [job for job in silent if seen[job].state in _FAILED]
    seen |= client.accounted(killed) if killed else {}
    logs = ledger.logs(sweep) if killed else {}
    for job in killed:
        if seen[job].state == "FAILED" and memory_ran_out(logs[silent[job]]):
            seen[job] = replace(seen[job], state="OUT_OF_MEMORY")
    return {n: judged(status, seen[ids[n]], job=ids[n]) if n in open_ids else status for n, status in said.items()}


def of(folder: Path, seen: Seen, *, job: str) -> Status:
    return judged(read_status(folder), seen, job=job)


def judged(said: Status, seen: Seen, *, job: str) -> Status:
    """One status.

    >>> judged(Status("RUNNING"), Seen("NODE_FAIL"), job="12").reason
    'node_fail'
    >>> judged(Status("RUNNING"), Seen("PENDING"), job="12").state  # requeued
    'PREEMPTED'
    """
    if said.state == "DONE" or seen.state == "UNKNOWN":
        return said
    if seen.state == "PENDING":
        back = said.state in ("PREEMPTED", "RUNNING", "LOST")
        why = seen.reason if seen.reason not in ("None", "") else "queued"
        return replace(said, state="PREEMPTED" if back else "PENDING", reason=why, hint="", exit_code=None)
    if not seen.ended:
        if said.state in ("RUNNING", "LOST") or seen.state == "COMPLETING":
            return said
        return replace(said, state="RUNNING", reason="starting", hint="", exit_code=None)
    if said.state in ("FAILED", "CANCELLED"):
        return said
    if seen.state == "CANCELLED":
        return replace(said, state="CANCELLED", reason="scancel", exit_code=Preempted.code)
    if seen.state in _FAILED:
        why, hint = in_words(seen), f"sacct -j {job}"
        return replace(
            said, state="FAILED", reason=_FAILED[seen.state], message=why, hint=hint, exit_code=RunError.code
        )
    return said


def memory_ran_out(log: Path) -> bool:
    """Whether Slurm says so in the job's log: not every site's accounting knows."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_BYTES))
            return _MEMORY.search(file.read()) is not None
    except OSError:
        return False


def in_words(seen: Seen) -> str:
    """How Slurm ended a job that has said nothing itself.

    >>> in_words(Seen("OUT_OF_MEMORY", exit_code="0:125")), in_words(Seen("FAILED", exit_code="127:0"))
    ('Slurm says OUT_OF_MEMORY', 'exit code 127 before the run could say anything; its log says more')
    """
    if seen.exit_code == _NO_LOG:
        return "the node could not write the log: is the sweep's folder on a file system that every node sees?"
    code, _, number = seen.exit_code.partition(":")
    if seen.state != "FAILED" or not seen.exit_code:
        return f"Slurm says {seen.state}"
    if number not in ("", "0"):
        return f"ended by signal {number}"
    return f"exit code {code} before the run could say anything; its log says more"


def exit_code(status: Status) -> int:
    """0 for what is done; else what the run has said, or the code for what nobody foresaw."""
    if status.state == "DONE":
        return 0
    return status.exit_code or RunError.code
