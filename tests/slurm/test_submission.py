"""What is submitted, what is not, and how one comes back to it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_plugins.plainloop_launchers.submitit_slurm import site_defaults
from plainloop.errors import BadConfig
from plainloop.sweep import outcome
from plainloop.sweep.slurm import client, submitted
from tests.slurm.lab import (
    HELD,
    ROOT,
    RUN,
    TWO_NODES,
    Lab,
    accounted,
    command,
    environment,
    jobs_of,
    sweep,
    until_over,
    wait_until,
)

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("hydra.launcher.partition=mian", "hydra.launcher.partition: unknown partition, got mian"),
        ("hydra.launcher.account=nobody", "Invalid account"),
        ("hydra.launcher.partition=short", "ends jobs after 2 minutes"),
        ("hydra.launcher.mem_gb=4000", "sbatch would refuse these jobs"),
        ("trainer.devices=3", "2 nodes with 1 tasks are 2 ranks"),
        ("hydra.launcher.nodes=0", "hydra.launcher.nodes: too small"),
        ("+hydra.launcher.partion=main", "hydra.launcher.partion: unknown key"),
        ("+hydra.launcher.additional_parameters.bogus=1", "sbatch has no such option"),
        ("hydra.launcher.submitit_folder='/tmp/100%/logs'", "does not take literally"),
        ("optimizer.lr=0.1,fast", "optimizer.lr"),
    ],
)
def test_what_the_site_or_the_check_refuses_is_not_submitted_and_leaves_no_trace(
    lab: Lab, tmp_path: Path, given: str, said: str
) -> None:
    before = accounted()
    answer = lab.train(*TWO_NODES, given, f"hydra.sweep.dir={tmp_path / 'sweep'}", at=tmp_path)
    assert answer.code == 64, answer.text
    assert said in answer.text
    assert not (tmp_path / "sweep").exists()
    assert accounted() == before


def test_a_site_that_takes_no_more_jobs_is_quoted(lab: Lab, tmp_path: Path) -> None:
    """Which sbatch does not tell when it is asked; the pickles of such an array are no jobs."""
    limit = ("sacctmgr", "-i", "modify", "user", "root", "set")
    assert client.call(*limit, "MaxSubmitJobs=2").returncode == 0
    try:
        answer = lab.train(*RUN, *TWO_NODES, "seed=0,1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}", at=tmp_path)
    finally:
        client.call(*limit, "MaxSubmitJobs=-1")
    assert answer.code == 70, answer.text
    assert "sbatch refused an array of 3 jobs: AssocMaxSubmitJobLimit" in answer.text
    assert "Traceback" not in answer.text
    assert not submitted.read(tmp_path / "sweep")


def test_one_wrong_job_of_a_hundred_keeps_all_of_them_from_being_submitted(lab: Lab, tmp_path: Path) -> None:
    before = accounted()
    rates = ",".join(["0.001"] * 57 + ["-0.1"] + ["0.001"] * 42)
    seeds = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    answer = lab.train(f"optimizer.lr={rates}", seeds, at=tmp_path)
    assert answer.code == 64, answer.text
    assert "job 57 of 100" in answer.text
    assert accounted() == before


def test_jobs_are_taken_up_again_not_submitted_twice_and_cancelled_for_good(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    first = lab.submit(*RUN, *TWO_NODES, HELD, "seed=0,1", folder=folder)
    again = lab.submit(*RUN, *TWO_NODES, HELD, "seed=0,1,2", folder=folder)
    assert [job.slurm for job in again[:2]] == [job.slurm for job in first]
    assert len(again) == 3
    done = sweep("cancel", folder)
    assert done.code == 0, done.text
    states = until_over(again)
    assert set(states.values()) == {"CANCELLED"}
    assert [row.state for row in outcome.rows(folder)] == ["CANCELLED"] * 3


# Files of the sweep's folder: before the submission, just before sbatch, and just after it.
@pytest.mark.parametrize("moment", ["jobs.jsonl", ".submitit", ".submitit/*.sh", "slurm.jsonl"])
def test_interrupting_the_terminal_at_any_moment_leaves_no_job_that_nobody_is_told_of(
    lab: Lab, tmp_path: Path, moment: str
) -> None:
    folder = tmp_path / "sweep"
    words = command(*RUN, *TWO_NODES, HELD, f"hydra.sweep.dir={folder}")
    driver = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_until(moment, lambda: next(folder.glob(moment), None) or driver.poll() is not None, every=0.001)
    driver.send_signal(signal.SIGINT)
    text = driver.communicate(timeout=60)[0]
    jobs, in_queue = jobs_of(folder), submitted.in_queue(folder)
    client.cancel(in_queue.values())
    assert {job.number: job.slurm for job in jobs} == in_queue
    for said in ("the jobs continue without this terminal", f"sweep.py cancel {folder}", f"hydra.sweep.dir={folder}"):
        assert (said in text) == bool(jobs), text
    if moment == "slurm.jsonl":
        assert len(jobs) == 1


def test_what_would_pend_for_ever_is_cancelled_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    """A dependency that cannot be met any more, which Slurm keeps in the queue."""
    failed = client.call("sbatch", "--parsable", "-o/dev/null", "--wrap=exit 1").stdout.strip()
    wait_until("a failed job", lambda: client.states([failed])[failed].ended)
    folder = tmp_path / "sweep"
    given = f"hydra.launcher.dependency=afterok:{failed}"
    answer = lab.train(*RUN, *TWO_NODES, given, f"hydra.sweep.dir={folder}", at=tmp_path, wait=True)
    assert answer.code != 0
    assert "can never start: Slurm says DependencyNeverSatisfied" in answer.text
    (job,) = jobs_of(folder)
    wait_until("the cancellation", lambda: job.state == "CANCELLED")
    assert job.status.reason == "DependencyNeverSatisfied"


def test_pickles_are_ours_alone_whatever_the_umask(lab: Lab, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (job,) = lab.submit(*RUN, *TWO_NODES, HELD, folder=tmp_path / "sweep")
    finally:
        os.umask(before)
    client.cancel([job.slurm])
    pickles = list((job.folder / ".submitit").glob("*.pkl"))
    assert pickles
    for path in [job.folder / ".submitit", *pickles]:
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path


def test_a_folder_that_others_may_write_in_is_refused(lab: Lab, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    before = accounted()
    given = f"hydra.launcher.submitit_folder={open_to_all}/pickles"
    answer = lab.train(*TWO_NODES, given, f"hydra.sweep.dir={tmp_path / 'sweep'}", at=tmp_path)
    assert answer.code == 64, answer.text
    assert "others can write to" in answer.text
    assert accounted() == before


def test_site_settings_are_under_the_command_line_and_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/slurm.yaml").write_text("partition: gpu\ncpus_per_task: 5\n")
    conf = site_defaults(tmp_path)
    assert (conf.partition, conf.cpus_per_task, conf.timeout_min) == ("gpu", 5, 60)


@pytest.mark.parametrize(("text", "said"), [("partiton: gpu", "unknown: partiton"), ("timeout_min: soon", "soon")])
def test_site_settings_that_are_none_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/slurm.yaml").write_text(text)
    with pytest.raises(BadConfig, match=said):
        site_defaults(tmp_path)


def test_mmocrs_words_make_the_job_that_they_made_there(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "it's a (work) dir"
    sizes = {"GPUS": "4", "GPUS_PER_NODE": "2", "CPUS_PER_TASK": "1", "SRUN_ARGS": "--quiet --label"}
    words = [ROOT / "scripts/slurm_train.sh", "main", "my job's (1)", "none", folder, HELD, "hydra.launcher.wait=false"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment() | sizes | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = jobs_of(folder)
    shown = client.show(job.slurm)
    assert (shown["Partition"], shown["NumNodes"], shown["NumTasks"], shown["NumCPUs"]) == ("main", "2-2", "4", "4")
    assert shown["TresPerNode"] == "gres:gpu:2"
    script = (folder / f".submitit/{job.slurm}_submission.sh").read_text()
    assert "#SBATCH --job-name='my job'\"'\"'s (1)'" in script
    assert "--quiet --label" in script
    client.cancel([job.slurm])
