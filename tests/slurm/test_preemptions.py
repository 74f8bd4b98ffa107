"""Twenty preemptions by TERM alone and ten with the site's user signal, of two ranks on two nodes: thirty times the
bits of a run that was left alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from plainloop.sweep.slurm import client
from plainloop.system import storage
from tests.harness.runs import differences, remains
from tests.slurm import lab as labs
from tests.slurm.disturb import disturbed, preempt
from tests.slurm.lab import HELD, RUN, TWO_NODES, Job, Lab, reached, until_over

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

AT_ONCE = 4
NODES = TWO_NODES[:2]  # without the time limit
STEPS = (1, 8, 16, 25, 35)  # at which the fastest of four is preempted; the others have not got as far
# Ranks ask each other often, so that there are many steps to stop after, and steps are slow enough to be in time.
OFTEN = (*(word.replace("seconds: 0.1", "seconds: 0.15") for word in RUN), "trainer.log_every=2")


@pytest.fixture
def term_only(lab: Lab) -> Iterator[Lab]:
    """A site that gives preempted jobs no signal of their own."""
    with labs.cluster(Path(f"{lab.folder}-term"), SLURM_LAB_USER_SIGNAL="0") as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """The reference, and another seed."""
    jobs = lab.submit(*OFTEN, *TWO_NODES, "seed=0,1", folder=tmp_path_factory.mktemp("undisturbed"))
    assert set(until_over(jobs).values()) == {"COMPLETED"}
    return jobs


def preempted(lab: Lab, folder: Path, steps: tuple[int, ...]) -> list[Job]:
    """As many rounds as there are steps: four runs, all preempted at once when the fastest has got to that step.

    Each comes back in its own folder and ends.
    """
    count = AT_ONCE * len(steps)
    # What differs is something that changes no result, so that one sweep holds them all.
    same = f"trainer.timeout_s={','.join(str(600 + number) for number in range(count))}"
    jobs = lab.submit(*OFTEN, *TWO_NODES, HELD, same, "hydra.launcher.partition=low", folder=folder / "sweep")
    for round_, step in enumerate(steps):
        some, waiting = jobs[AT_ONCE * round_ : AT_ONCE * (round_ + 1)], [step]

        def in_time(some: list[Job] = some, waiting: list[int] = waiting) -> None:
            if waiting and any(reached(job, waiting[0]) for job in some) and {job.state for job in some} == {"RUNNING"}:
                waiting.clear()
                preempt(lab)

        for job in some:
            job.release()
        states = until_over(some, each=in_time)
        assert set(states.values()) == {"COMPLETED"}, "\n".join(job.log(0) + job.log(1) for job in some)
        assert all(int(client.show(job.slurm)["Restarts"]) >= 1 for job in some)  # Slurm forgets in five minutes
    assert sorted(
        path.name for path in (folder / "sweep").iterdir() if path.is_dir() and path.name.isdigit()
    ) == sorted(str(job.number) for job in jobs)
    return jobs


def left_at(job: Job) -> list[int]:
    """Steps after which it was saved for its preemption; none where it was killed before it had begun."""
    rows = storage.read_lines(job.run / "attempts.jsonl")
    return [row["step"] for row in rows if row.get("state") == "PREEMPTED"]


def exact(jobs: list[Job], reference: Job) -> int:
    """How many of them have its bits."""
    expected = remains(reference.run)
    return sum(differences(expected, remains(job.run)) == [] for job in jobs)


def test_the_comparison_sees_a_difference(undisturbed: list[Job]) -> None:
    one, other = (remains(job.run) for job in undisturbed)
    assert differences(one, other) != []


def test_preempted_with_the_users_signal(lab: Lab, undisturbed: list[Job], tmp_path: Path) -> None:
    jobs = preempted(lab, tmp_path, STEPS[:3])
    assert exact(jobs, undisturbed[0]) == len(jobs) == 12
    assert len({step for job in jobs for step in left_at(job)}) >= len(STEPS[:3])  # they are not all the same case


def test_preempted_by_term_alone(undisturbed: list[Job], term_only: Lab, tmp_path: Path) -> None:
    jobs = preempted(term_only, tmp_path, STEPS)
    assert exact(jobs, undisturbed[0]) == len(jobs) == 20
    assert len({step for job in jobs for step in left_at(job)}) >= len(STEPS)  # they are not all the same case


def test_preempted_without_any_grace(undisturbed: list[Job], term_only: Lab, tmp_path: Path) -> None:
    """TERM, and KillWait later KILL: who has not saved by then goes on from the last periodic save."""
    assert client.call("scontrol", "update", "partitionname=low", "gracetime=0").returncode == 0
    jobs = preempted(term_only, tmp_path, (30,))
    assert exact(jobs, undisturbed[0]) == len(jobs) == 4


def test_a_short_job_that_is_preempted_at_once_comes_back(lab: Lab, undisturbed: list[Job], tmp_path: Path) -> None:
    """submitit takes the preemption of a job of up to ten minutes for its time limit, and drops it."""
    given = (*OFTEN, *NODES, "hydra.launcher.timeout_min=5")
    job = disturbed(lab, tmp_path, {"short": (preempt, "low", -1)}, given)["short"]
    assert int(client.show(job.slurm)["Restarts"]) == 1
    assert exact([job], undisturbed[0]) == 1


def test_so_does_one_that_is_preempted_near_its_limit(lab: Lab, undisturbed: list[Job], tmp_path: Path) -> None:
    """submitit does the same in the last fifth of a job. It knows a limit of a minute here; Slurm has a longer one."""
    slow = [word.replace("seconds: 0.15", "seconds: 1.2") for word in OFTEN]
    given = (*slow, *NODES, HELD, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    (job,) = lab.submit(*given, "hydra.launcher.partition=low", folder=tmp_path / "sweep")
    assert client.call("scontrol", "update", f"jobid={job.slurm}", "TimeLimit=10").returncode == 0
    job.release()
    waiting = [45]

    def after_fifty_seconds() -> None:
        if waiting and reached(job, waiting[0]):
            waiting.clear()
            preempt(lab)

    assert until_over([job], each=after_fifty_seconds)[job] == "COMPLETED"
    assert int(client.show(job.slurm)["Restarts"]) == 1
    assert exact([job], undisturbed[0]) == 1


def test_wandb_goes_on_under_the_same_id(lab: Lab, undisturbed: list[Job], tmp_path: Path) -> None:
    """Slurm's signals reach its helper process as well."""
    given = (*OFTEN, *TWO_NODES, "logger=wandb", "logger.wandb.mode=offline")
    job = disturbed(lab, tmp_path, {"wandb": (preempt, "low", 20)}, given)["wandb"]
    ids = [folder.name.rpartition("-")[2] for folder in job.run.glob("wandb/offline-run-*")]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert exact([job], undisturbed[0]) == 1
