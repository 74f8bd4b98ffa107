"""Several ranks below one task: `trainer.devices` starts them, with srun and without."""

import pytest

from plainloop.sweep.slurm import client
from tests.harness.runs import differences, remains
from tests.slurm.disturb import Disturb, disturbed, nothing, requeue
from tests.slurm.lab import RUN, Job, Lab

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ONE_TASK = (*RUN, "trainer.devices=2", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10")
NO_SRUN = "hydra.launcher.use_srun=false"


def signal_steps(lab: Lab, job: Job) -> None:
    client.call("scancel", "--signal=USR2", job.slurm)


def signal_batch(lab: Lab, job: Job) -> None:
    """As the time limit's warning comes where there is no step."""
    client.call("scancel", "--batch", "--signal=USR2", job.slurm)


@pytest.fixture(scope="module")
def runs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    folder = tmp_path_factory.mktemp("one_task")
    with_srun: dict[str, tuple[Disturb, str, int]] = {
        "alone": (nothing, "main", 0),
        "signal": (signal_steps, "main", 15),
    }
    without: dict[str, tuple[Disturb, str, int]] = {
        "signal to the batch script": (signal_batch, "main", 15),
        "requeue": (requeue, "main", 20),
    }
    return disturbed(lab, folder, with_srun, ONE_TASK) | disturbed(lab, folder, without, (*ONE_TASK, NO_SRUN))


@pytest.mark.parametrize("name", ["signal", "signal to the batch script", "requeue"])
def test_workers_of_one_task_come_back_to_the_same_bits(runs: dict[str, Job], name: str) -> None:
    assert differences(remains(runs["alone"].run), remains(runs[name].run)) == []
    assert int(client.show(runs[name].slurm)["Restarts"]) == 1
    assert runs[name].attempts() == ["PREEMPTED", "DONE"]
