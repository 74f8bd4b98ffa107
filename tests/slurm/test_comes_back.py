"""Whatever Slurm does to a job, it ends with the bits of one that was left alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plainloop.slurm import client
from tests.kill.harness import differences, remains
from tests.slurm.lab import HELD, RUN, TWO_NODES, Job, Lab, reached, until_over

pytestmark = pytest.mark.slurm


def nothing(lab: Lab, job: Job) -> None:
    """Leaves it alone."""


def two_signals(lab: Lab, job: Job) -> None:
    for _ in range(2):
        client.call("scancel", "--signal=USR2", job.slurm)


def requeue(lab: Lab, job: Job) -> None:
    client.call("scontrol", "requeue", job.slurm)


def preempt(lab: Lab, job: Job) -> None:
    """By a job of a better partition, which wants all nodes for a moment."""
    done = client.call("sbatch", "-phigh", "-N2", "--exclusive", "-o/dev/null", "-t1", "--wrap=sleep 1")
    assert done.returncode == 0, done.stderr


Disturb = Callable[[Lab, Job], None]


def disturbed(lab: Lab, folder: Path, cases: dict[str, tuple[Disturb, str, int]]) -> dict[str, Job]:
    """The same run as many times as there are cases, all at once: (what is done to it, partition, at which step)."""
    jobs = {}
    for name, (_, partition, _) in cases.items():
        given = (*RUN, *TWO_NODES, HELD, f"hydra.launcher.partition={partition}")
        jobs[name] = lab.submit(*given, folder=folder / name)[0]
    for job in jobs.values():
        job.release()
    waiting = dict(cases)

    def disturb() -> None:
        for name, (what, _, step) in list(waiting.items()):
            job = jobs[name]
            if (step < 0 and job.state == "RUNNING") or (step >= 0 and reached(job, step)):
                del waiting[name]
                what(lab, job)

    states = until_over(list(jobs.values()), each=disturb)
    for name, job in jobs.items():
        assert states[job] == "COMPLETED", f"{name}: {states[job]}\n{job.log(0)}\n{job.log(1)}"
    return jobs


@pytest.fixture(scope="module")
def runs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    cases: dict[str, tuple[Disturb, str, int]] = {
        "alone": (nothing, "main", 0),
        "two signals": (two_signals, "main", 15),
        "start-up": (two_signals, "main", -1),
        "requeue": (requeue, "main", 30),
    }
    folder = tmp_path_factory.mktemp("runs")
    return disturbed(lab, folder, cases) | disturbed(lab, folder, {"preempted": (preempt, "low", 20)})


@pytest.mark.parametrize("name", ["two signals", "start-up", "requeue", "preempted"])
def test_a_disturbed_job_ends_with_the_bits_of_one_left_alone(runs: dict[str, Job], name: str) -> None:
    assert differences(remains(runs["alone"].run), remains(runs[name].run)) == []
    assert runs[name].attempts() == ["PREEMPTED", "DONE"]
    assert int(client.show(runs[name].slurm)["Restarts"]) == 1
