"""Whatever Slurm does to a job, it ends with the bits of one that was left alone."""

import pytest

from plainloop.sweep.slurm import client
from tests.harness.runs import differences, remains
from tests.slurm.disturb import Disturb, disturbed, nothing, preempt, requeue, requeuehold, two_signals
from tests.slurm.lab import Job, Lab

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def runs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    cases: dict[str, tuple[Disturb, str, int]] = {
        "alone": (nothing, "main", 0),
        "two signals": (two_signals, "main", 15),
        "start-up": (two_signals, "main", -1),
        "requeue": (requeue, "main", 30),
        "requeuehold": (requeuehold, "main", 20),
    }
    folder = tmp_path_factory.mktemp("runs")
    return disturbed(lab, folder, cases) | disturbed(lab, folder, {"preempted": (preempt, "low", 20)})


@pytest.mark.parametrize("name", ["two signals", "start-up", "requeue", "requeuehold", "preempted"])
def test_a_disturbed_job_ends_with_the_bits_of_one_left_alone(runs: dict[str, Job], name: str) -> None:
    assert differences(remains(runs["alone"].run), remains(runs[name].run)) == []
    assert runs[name].attempts() == ["PREEMPTED", "DONE"]
    assert int(client.show(runs[name].slurm)["Restarts"]) == 1
