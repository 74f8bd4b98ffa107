"""Slurm's own commands and their answers. No torch and no submitit here."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plainloop.errors import RunError

TIMEOUT_S = 60.0  # of one command; a controller that restarts answers late
RETRIES = 5

# Base states that a job does not leave by itself (squeue(1), JOB STATE CODES).
ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"}
)

# Reasons of PENDING that never end: the request itself breaks a limit (squeue(1), JOB REASON CODES).
NEVER = re.compile(
    r"PartitionTimeLimit|PartitionNodeLimit|PartitionInactive|PartitionConfig|BadConstraints|DependencyNeverSatisfied"
    r"|InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed|ReservationDeleted"
    r"|(Assoc|QOS)Max(WallDurationPerJobLimit|\w*PerJob(Limit)?|\w*PerNode(Limit)?|\w*MinutesPerJob(Limit)?)"
    r"|(Assoc|QOS)Min\w+|MaxMemPerLimit|QOSNotAllowed|QOSUsageThreshold"
)


class SlurmError(RunError):
    """One of Slurm's commands failed."""

    reason = "slurm"


@dataclass(frozen=True)
class SlurmState:
    """What Slurm says of one job."""

    state: str  # PENDING, RUNNING, ... in Slurm's words; UNKNOWN when neither squeue nor sacct knows it
    reason: str = ""  # why it is pending
    exit_code: str = ""  # code:signal, once ended

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def never_starts(self) -> bool:
        return self.state == "PENDING" and NEVER.fullmatch(self.reason) is not None


def call(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Raises SlurmError where the command is missing or does not answer. The caller looks at the exit status."""
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        raise SlurmError(
            f"{command[0]} is not here: this machine has no Slurm commands",
            hint="log in to the cluster's login node, or type hydra/launcher=local",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{' '.join(command)} did not answer within {TIMEOUT_S:.0f} s", hint="is the controller up? scontrol ping"
        ) from error


def _raise_if_failed(command: str, answer: subprocess.CompletedProcess[str]) -> None:
    if answer.returncode:
        raise SlurmError(f"{command} failed: {answer.stderr.strip()}", hint="is the controller up? scontrol ping")


def states(jobs: Iterable[str]) -> dict[str, SlurmState]:
    """The state of each job (12, or 12_3 of an array), from squeue, which knows a job until minutes after its end,
    or else from accounting.

    Raises SlurmError when the controller does not answer, so that no job is taken for ended.
    """
    asked = list(dict.fromkeys(jobs))
    states: dict[str, SlurmState] = {}
    if asked:
        mains = sorted({job.partition("_")[0] for job in asked})
        answer = call(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(mains)}"
        )
        if "Invalid job id" not in answer.stderr:
            _raise_if_failed("squeue", answer)
        for line in sorted(answer.stdout.splitlines(), key=lambda line: "_" in line.split("|")[0]):
            shown, state, reason = line.split("|", 2)
            for job in named(shown, asked):
                states[job] = SlurmState(state, reason)
    missing = [job for job in asked if job not in states]
    if missing:
        states |= accounted(missing)
    return {job: states.get(job, SlurmState("UNKNOWN")) for job in asked}


def accounted(jobs: Iterable[str]) -> dict[str, SlurmState]:
    """The states in accounting; {} where the site has none."""
    asked = list(jobs)
    mains = ",".join(sorted({job.partition("_")[0] for job in asked}))
    form = "--format=JobID,State,ExitCode"
    answer = call("sacct", "--noheader", "--parsable2", "--allocations", form, f"--jobs={mains}")
    states: dict[str, SlurmState] = {}
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    for line in sorted(lines, key=lambda line: "_" in line.split("|")[0]):  # a task's own line comes last and counts
        shown, state, code = line.split("|")
        for job in named(shown, asked):
            states[job] = SlurmState(state.split()[0], exit_code=code)  # "CANCELLED by 1000"
    return states


def named(shown: str, jobs: Iterable[str]) -> list[str]:
    """The jobs that one line of Slurm's output is about: tasks that never started may share the array's own line.

    >>> named("12_3", ["12_3", "12_4"]), named("12", ["12_3", "13"]), named("12_[3-4%2]", ["12_3", "12_4", "12_5"])
    (['12_3'], ['12_3'], ['12_3', '12_4'])
    """
    main, _, tasks = shown.partition("_")
    if tasks and not tasks.startswith("["):
        return [job for job in jobs if job == shown]
    parts = [part.split("-") for part in tasks.strip("[]").partition("%")[0].split(",") if part]
    numbers = {str(n) for part in parts for n in range(int(part[0]), int(part[-1]) + 1)}
    mine = [job for job in jobs if job.partition("_")[0] == main]
    return [job for job in mine if not numbers or job.partition("_")[2] in numbers]


def scripts() -> dict[str, Path]:
    """The batch script of each of the user's jobs that has not ended."""
    answer = call("squeue", "--me", "--noheader", "--array", "--format=%i|%o")
    _raise_if_failed("squeue", answer)
    rows = [line.partition("|") for line in answer.stdout.splitlines()]
    return {job: Path(script) for job, _, script in rows}


def show(job: str) -> dict[str, str]:
    """scontrol's fields of one job, retried while the controller restarts. Raises SlurmError."""
    for attempt in range(RETRIES):
        answer = call("scontrol", "show", "job", "--oneliner", job)
        if answer.returncode == 0:
            return dict(re.findall(r"(\w+)=(\S*)", answer.stdout.splitlines()[0]))
        time.sleep(2**attempt)
    raise SlurmError(f"scontrol show job {job} failed: {answer.stderr.strip()}")


def requeue(job: str) -> None:
    """Puts a running job back in the queue, which ends it. Retried. Raises SlurmError."""
    for attempt in range(RETRIES):
        answer = call("scontrol", "requeue", job)
        if answer.returncode == 0:
            return
        if "disabled" in answer.stderr:  # --no-requeue, or JobRequeue=0 and nothing asked
            break
        time.sleep(2**attempt)
    raise SlurmError(
        f"scontrol requeue {job} failed: {answer.stderr.strip()}",
        hint="the run is saved; type the same command again to continue it",
    )


def cancel(jobs: Iterable[str]) -> None:
    """Raises SlurmError, but not for jobs that have ended."""
    listed = list(jobs)
    answer = call("scancel", *listed) if listed else None
    if answer is not None and answer.returncode and "already completing or completed" not in answer.stderr:
        raise SlurmError(f"scancel failed: {answer.stderr.strip()}")


def refused(script: Path) -> str:
    """Why sbatch would refuse this script, or ""; submits nothing."""
    answer = call("sbatch", "--test-only", str(script))
    if answer.returncode == 0:
        return ""
    lines = [line for line in answer.stderr.strip().splitlines() if not line.startswith("Try ")]  # ... --help
    said = lines[-1] if lines else "sbatch --test-only failed without a message"
    return re.sub(r"^(sbatch: )?(error: )?(allocation failure: )?", "", said)


def partitions() -> dict[str, Mapping[str, str]]:
    """scontrol's fields of every partition by name."""
    answer = call("scontrol", "show", "partition", "--oneliner")
    _raise_if_failed("scontrol show partition", answer)
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in answer.stdout.splitlines() if line.strip()]
    return {row["PartitionName"]: row for row in rows}


def setting(name: str) -> str:
    """One value of the cluster's configuration; "" when it is not set."""
    match = re.search(rf"^{name}\s*=\s*(\S+)", call("scontrol", "show", "config").stdout, re.MULTILINE)
    return match[1] if match else ""


def minutes(limit: str) -> float:
    """A time limit as Slurm writes it, in minutes.

    >>> minutes("2:00"), minutes("01:30:00"), minutes("1-00:00:00"), minutes("UNLIMITED")
    (2.0, 90.0, 1440.0, inf)
    """
    if limit in ("UNLIMITED", "INFINITE"):
        return float("inf")
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        parts += [0] * (3 - len(parts))  # days-hours[:minutes[:seconds]]
    hours, mins, seconds = [0, 0, 0, *parts][-3:] if len(parts) > 1 else (0, parts[0], 0)
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60
