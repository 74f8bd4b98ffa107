"""`hydra/launcher=submitit_local`: the jobs that Slurm would be given, on one machine and without Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.runs import differences, remains
from tests.slurm.lab import ROOT, RUN, Answer, environment
from tests.slurm.lab import sweep as tool

LOCAL = ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2")


def train(*arguments: str, at: Path) -> Answer:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *arguments],
        cwd=at,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return Answer(done.returncode, done.stdout)


def test_two_tasks_are_two_ranks_of_the_same_run(tmp_path: Path) -> None:
    short = [*(word for word in RUN if "slow" not in word and "duration" not in word), "trainer.duration=20st"]
    dealt = train(*short, *LOCAL, "hydra.sweep.dir=dealt", at=tmp_path)
    assert dealt.code == 0, dealt.text
    own = train(*short, "trainer.devices=2", "hydra.sweep.dir=own", at=tmp_path)
    assert own.code == 0, own.text
    assert differences(remains(tmp_path / "dealt/0"), remains(tmp_path / "own/0")) == []


@pytest.mark.parametrize("given", ["hydra.launcher.nodes=2", "hydra.launcher.array_parallelism=0"])
def test_what_one_machine_has_not_is_refused(tmp_path: Path, given: str) -> None:
    answer = train(*LOCAL, given, "hydra.sweep.dir=sweep", at=tmp_path)
    assert answer.code == 64, answer.text
    assert given.partition("=")[0] in answer.text
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_at_its_time_limit_a_job_saves_and_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    long = [*(word for word in RUN if "slow" not in word and "duration" not in word), "trainer.duration=50st"]
    long.append(RUN[4].replace("0.1}", "0.5}"))
    limited = [*long, *LOCAL, "hydra.launcher.timeout_min=1", "hydra.sweep.dir=limited"]
    first = train(*limited, at=tmp_path)
    assert first.code == 75, first.text
    assert "1 of 1 job not finished; to continue:" in first.text
    assert "PREEMPTED" in tool("status", tmp_path / "limited").text
    codes = [first.code]
    while codes[-1] == 75 and len(codes) < 5:
        codes.append(train(*limited, at=tmp_path).code)
    assert codes[-1] == 0
    alone = train(*long, *LOCAL, "hydra.sweep.dir=alone", at=tmp_path)
    assert alone.code == 0, alone.text
    assert differences(remains(tmp_path / "alone/0"), remains(tmp_path / "limited/0")) == []
