"""What takes minutes by its nature: a node that dies, the real time limit."""

from pathlib import Path

import pytest

from plainloop.sweep.slurm import client
from tests.harness.runs import differences, remains
from tests.slurm.lab import HELD, RUN, TWO_NODES, Job, Lab, reached, until_over, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

MINUTE = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")


def crash(lab: Lab) -> None:
    lab.cluster("crash", "n2")
    wait_until("n2 is down", lambda: client.call("sinfo", "-hNnn2", "-o%T").stdout.startswith("down"))
    lab.cluster("boot", "n2")


def test_a_job_whose_node_dies_comes_back_to_the_same_bits(lab: Lab, tmp_path: Path) -> None:
    jobs = {name: lab.submit(*RUN, *TWO_NODES, HELD, folder=tmp_path / name)[0] for name in ("alone", "crashed")}
    waiting = [jobs["crashed"]]

    def disturb() -> None:
        if waiting and reached(waiting[0], 30):
            waiting.pop()
            crash(lab)

    jobs["alone"].release()
    assert until_over([jobs["alone"]])[jobs["alone"]] == "COMPLETED"
    jobs["crashed"].release()
    assert until_over([jobs["crashed"]], each=disturb, timeout=400)[jobs["crashed"]] == "COMPLETED"
    assert client.show(jobs["crashed"].slurm)["Restarts"] == "1"
    assert differences(remains(jobs["alone"].run), remains(jobs["crashed"].run)) == []


def test_the_time_limit_is_survived_as_often_as_it_comes(lab: Lab, tmp_path: Path) -> None:
    """Three segments or more of one minute, many more where starting takes most of it; the reference has ten."""
    long = [word for word in RUN if not word.startswith(("trainer.duration", "+augment.slow"))]
    long += ["trainer.duration=200st", RUN[4].replace("0.1}", "0.4}")]
    jobs: dict[str, Job] = {}
    for name, limit in (("alone", ()), ("limited", MINUTE)):
        given = [word for word in TWO_NODES if not (limit and "timeout_min" in word)]
        jobs[name] = lab.submit(*long, *given, *limit, folder=tmp_path / name)[0]
    states = until_over(list(jobs.values()), timeout=1200)
    assert set(states.values()) == {"COMPLETED"}
    attempts = jobs["limited"].attempts()
    assert attempts == ["PREEMPTED"] * (len(attempts) - 1) + ["DONE"]
    assert len(attempts) >= 3
    assert differences(remains(jobs["alone"].run), remains(jobs["limited"].run)) == []
