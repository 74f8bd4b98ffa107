"""The process that submits may die at any moment: the jobs do not need it, and the next one knows them again."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plainloop.sweep.slurm import client, submitted
from plainloop.system import storage
from tests.slurm.disturb import preempt
from tests.slurm.lab import (
    HELD,
    RUN,
    TWO_NODES,
    Lab,
    accounted,
    command,
    environment,
    jobs_of,
    reached,
    sweep,
    until_over,
    wait_until,
)

pytestmark = pytest.mark.slurm


def test_what_was_submitted_and_not_written_down_is_found_again(lab: Lab, tmp_path: Path) -> None:
    """What is left by a death before slurm.jsonl is written: everything but that file."""
    given = (*RUN, *TWO_NODES, HELD, "seed=0,1")
    first = lab.submit(*given, folder=tmp_path / "sweep")
    (tmp_path / "sweep" / submitted.FILE).unlink()
    before = accounted()
    again = lab.submit(*given, folder=tmp_path / "sweep")
    assert [job.slurm for job in again] == [job.slurm for job in first]
    assert accounted() == before
    (tmp_path / "sweep" / submitted.FILE).unlink()
    answer = sweep("cancel", tmp_path / "sweep")
    assert answer.code == 0, answer.text
    assert set(until_over(first).values()) == {"CANCELLED"}


def test_what_sbatch_took_before_the_driver_died_is_cancelled_and_submitted_once_more(lab: Lab, tmp_path: Path) -> None:
    """An sbatch that kills whoever calls it, once the job is in: it has no pickle then, and could run nothing."""
    deadly = tmp_path / "bin/sbatch"
    deadly.parent.mkdir()
    real = shutil.which("sbatch")
    deadly.write_text(f'#!/bin/sh\n{real} "$@" || exit 1\ncase "$*" in *--test-only*) ;; *) kill -9 $PPID ;; esac\n')
    deadly.chmod(0o755)
    words = command(*RUN, *TWO_NODES, HELD, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    killed = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment() | {"PATH": f"{deadly.parent}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -9, killed.stderr
    (script,) = {path for path in client.scripts().values() if path.is_relative_to(tmp_path)}
    lost = [job for job, path in client.scripts().items() if path == script]
    assert len(lost) == 2
    assert not submitted.read(tmp_path / "sweep")
    jobs = lab.submit(*RUN, *TWO_NODES, HELD, "seed=0,1", folder=tmp_path / "sweep")
    assert {client.states(lost)[job].state for job in lost} == {"CANCELLED"}
    assert {job.state for job in jobs} == {"PENDING"}
    client.cancel(job.slurm for job in jobs)


@pytest.mark.slow
def test_twelve_jobs_end_without_the_driver_and_retry_starts_the_failed_one_alone(lab: Lab, tmp_path: Path) -> None:
    folder, mended, bad = tmp_path / "sweep", tmp_path / "mended", 7
    steps = ",".join("10" if number == bad else str(1000 + number) for number in range(12))
    failing = "{_target_: tests.slurm.parts.fail, _partial_: true, rank: 0, at: 0, unless: " + str(mended) + "}"
    given = (f"+augment.failing={failing}", f"augment.failing.at={steps}", "hydra.launcher.partition=low")
    place = ("hydra.launcher.cpus_per_task=2", "hydra.launcher.timeout_min=10", f"hydra.sweep.dir={folder}")
    driver = subprocess.Popen(
        command(*RUN, *given, *place),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until("the submission", lambda: len(submitted.read(folder)) == 12)
    jobs = jobs_of(folder)
    wait_until("some steps of four jobs", lambda: sum(reached(job, 5) for job in jobs) == 4)
    driver.kill()
    driver.wait()
    preempt(lab, nodes="n1")  # which has two of them
    wait_until("two preemptions", lambda: sum(job.status.state == "PREEMPTED" for job in jobs) == 2)
    wait_until("the same in the table", lambda: sum(row["state"] == "PREEMPTED" for row in table(folder)) == 2)
    states = until_over(jobs, timeout=500)
    assert [states[job] for job in jobs].count("COMPLETED") == 11
    assert sorted(len(job.attempts()) for job in jobs) == [1] * 10 + [2] * 2

    rows = table(folder)
    assert [row["state"] for row in rows] == ["FAILED" if number == bad else "DONE" for number in range(12)]
    assert "told to fail at step 10" in rows[bad]["why"]
    assert table(folder) == rows  # whoever asks
    assert "ZeroDivisionError" in sweep("logs", folder, "--failed").text

    before = accounted()
    mended.touch()
    answer = sweep("retry", folder, "plugins=[tests.slurm.parts]")
    assert answer.code == 0, answer.text
    assert accounted() == before + 1
    numbers = [row["number"] for row in storage.read_lines(folder / submitted.FILE)]
    assert numbers == [*range(12), bad]
    assert {row["state"] for row in table(folder)} == {"DONE"}
    assert "nothing to retry" in sweep("retry", folder).text
    assert accounted() == before + 1


def table(folder: Path) -> list[dict]:
    answer = sweep("status", folder, "--json")
    assert answer.code == 0, answer.text
    return json.loads(answer.text)
