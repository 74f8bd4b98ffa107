"""What Slurm, its administrators and other people's jobs do to a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plainloop.sweep import outcome
from plainloop.sweep.slurm import client
from tests.slurm.lab import HELD, RUN, TWO_NODES, Job, Lab, reached, until_over, wait_until

Disturb = Callable[[Lab, Job], None]


def nothing(lab: Lab, job: Job) -> None:
    """Leaves it alone."""


def two_signals(lab: Lab, job: Job) -> None:
    for _ in range(2):
        client.call("scancel", "--signal=USR2", job.slurm)


def requeue(lab: Lab, job: Job) -> None:
    client.call("scontrol", "requeue", job.slurm)


def requeuehold(lab: Lab, job: Job) -> None:
    """And lets it go when it is held."""
    client.call("scontrol", "requeuehold", job.slurm)
    wait_until("a requeued job that is held", lambda: job.state == "PENDING")
    assert outcome.rows(job.folder)[0].state == "PREEMPTED"
    job.release()


def preempt(lab: Lab, job: Job | None = None, *, nodes: str = "n[1-2]") -> None:
    """Everything of partition low there, by a job of a better one that wants the nodes whole for a moment."""
    done = client.call("sbatch", "-phigh", f"-w{nodes}", "--exclusive", "-o/dev/null", "-t1", "--wrap=sleep 1")
    assert done.returncode == 0, done.stderr


def has_tasks(job: Job) -> bool:
    """Before that, while the batch script prepares them, Slurm has nobody to give a signal to."""
    return (
        f"{job.slurm}.0" in client.call("squeue", "--steps", "--noheader", "--format=%i", f"--jobs={job.slurm}").stdout
    )


def disturbed(
    lab: Lab, folder: Path, cases: dict[str, tuple[Disturb, str, int]], given: tuple[str, ...] = (*RUN, *TWO_NODES)
) -> dict[str, Job]:
    """The same run as many times as there are cases, all at once: (what is done to it, partition, at which step; -1 is
    as soon as srun has started its tasks, which then import torch for seconds)."""
    jobs = {}
    for name, (_, partition, _) in cases.items():
        jobs[name] = lab.submit(*given, HELD, f"hydra.launcher.partition={partition}", folder=folder / name)[0]
    for job in jobs.values():
        job.release()
    waiting = dict(cases)

    def disturb() -> None:
        for name, (what, _, step) in list(waiting.items()):
            job = jobs[name]
            if (step < 0 and has_tasks(job)) or (step >= 0 and reached(job, step)):
                del waiting[name]
                what(lab, job)

    states = until_over(list(jobs.values()), each=disturb)
    for name, job in jobs.items():
        assert states[job] == "COMPLETED", f"{name}: {states[job]}\n{job.log(0)}\n{job.log(1)}"
    return jobs
