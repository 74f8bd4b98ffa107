"""A job that fails, is cancelled, or leads nowhere ends for good, and everybody is told why."""

import pytest

from plainloop.sweep import outcome
from plainloop.sweep.slurm import client
from tests.slurm.lab import HELD, RUN, TWO_NODES, Job, Lab, reached, until_over

pytestmark = pytest.mark.slurm


def failing(kind: str, *, rank: int, at: int) -> str:
    return f"+augment.failing={{_target_: tests.slurm.parts.{kind}, _partial_: true, rank: {rank}, at: {at}}}"


@pytest.fixture(scope="module")
def ended(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Job, str]]:
    """Three runs of two ranks each, and Slurm's last word on them."""
    folder = tmp_path_factory.mktemp("ends")
    given = {
        "fails": (failing("fail", rank=1, at=10),),
        "killed": (failing("die", rank=1, at=10),),
        "cancelled": (),
    }
    jobs = {name: lab.submit(*RUN, *TWO_NODES, HELD, *more, folder=folder / name)[0] for name, more in given.items()}
    for job in jobs.values():
        job.release()
    waiting = {"cancelled": lambda job: client.cancel([job.slurm])}

    def disturb() -> None:
        for name in list(waiting):
            if reached(jobs[name], 10):
                waiting.pop(name)(jobs[name])

    states = until_over(list(jobs.values()), each=disturb)
    return {name: (job, states[job]) for name, job in jobs.items()}


def test_a_job_that_fails_by_itself_is_failed_for_slurm_too_and_not_requeued(ended: dict[str, tuple[Job, str]]) -> None:
    job, state = ended["fails"]
    assert state == "FAILED"
    assert client.show(job.slurm)["Restarts"] == "0"
    assert job.attempts() == ["FAILED"]


def test_the_root_cause_is_in_the_logs_and_in_the_status(ended: dict[str, tuple[Job, str]]) -> None:
    job, _ = ended["fails"]
    for rank in (0, 1):
        assert "Traceback" in job.log(rank), job.log(rank)
        assert "ZeroDivisionError: rank 1 was told to fail at step 10" in job.log(rank)
    assert "rank 1 was told to fail" in job.status.message


def test_a_killed_rank_ends_the_job_and_is_told(ended: dict[str, tuple[Job, str]]) -> None:
    job, state = ended["killed"]
    assert state == "FAILED"
    assert client.show(job.slurm)["Restarts"] == "0"
    assert outcome.rows(job.folder)[0].state == "FAILED"


def test_scancel_is_for_good_and_what_was_done_is_saved(ended: dict[str, tuple[Job, str]]) -> None:
    job, state = ended["cancelled"]
    assert state == "CANCELLED"
    assert job.status.state == "CANCELLED"
    assert job.status.step >= 10
    assert outcome.rows(job.folder)[0].state == "CANCELLED"
