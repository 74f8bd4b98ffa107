"""Attempts that were stopped where they began are counted; what went a step on is not."""

import json
from pathlib import Path

import pytest

from plainloop.errors import NoProgress
from plainloop.run_dir.journal import ATTEMPTS
from plainloop.sweep.slurm import client
from plainloop.sweep.slurm.job import stops_without_progress
from tests.slurm.lab import RUN, TWO_NODES, Lab, until_over


def attempts(folder: Path, *spans: tuple[int, int, str]) -> Path:
    rows = []
    for number, (begun, ended, state) in enumerate(spans, start=1):
        rows += [{"attempt": number, "started": number, "step": begun}]
        rows += [{"attempt": number, "ended": number, "state": state, "reason": "", "step": ended}]
    (folder / "attempts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ([], 0),
        ([(0, 0, "PREEMPTED")], 1),
        ([(20, 20, "PREEMPTED")] * 3, 3),
        ([(0, 20, "PREEMPTED"), (20, 20, "PREEMPTED"), (20, 20, "PREEMPTED")], 2),
        ([(20, 20, "PREEMPTED"), (20, 20, "PREEMPTED"), (20, 21, "PREEMPTED")], 0),
        ([(20, 20, "PREEMPTED"), (20, 20, "FAILED"), (20, 20, "PREEMPTED")], 1),
    ],
)
def test_only_the_latest_attempts_in_a_row_that_got_nowhere_count(
    tmp_path: Path, spans: list[tuple[int, int, str]], count: int
) -> None:
    assert stops_without_progress(attempts(tmp_path, *spans)) == count


def test_the_third_in_vain_is_the_last() -> None:
    assert ATTEMPTS == 3


@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_that_never_gets_past_its_first_step_stops_coming_back(lab: Lab, tmp_path: Path) -> None:
    """Its steps are longer than KillWait: each time it is requeued, it is killed before it can save."""
    endless = [word.replace("seconds: 0.1", "seconds: 60") for word in RUN]
    (job,) = lab.submit(*endless, *TWO_NODES, folder=tmp_path / "sweep")
    begun = 0

    def again() -> None:
        nonlocal begun
        if job.starts() > begun and job.status.state == "RUNNING":
            begun = job.starts()
            client.call("scontrol", "requeue", job.slurm)

    states = until_over([job], each=again)
    assert states[job] == "FAILED"
    assert int(client.show(job.slurm)["Restarts"]) == ATTEMPTS
    assert (job.status.state, job.status.reason) == ("FAILED", NoProgress.reason)
