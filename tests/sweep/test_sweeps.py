"""Whole sweeps of real runs, started, ended and continued as a person would."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from plainloop.config.compose.composer import Composer
from plainloop.sweep import outcome
from plainloop.sweep.check import check_sweep
from plainloop.sweep.numbering import assign_numbers
from tests.harness.children import wait_for
from tests.harness.configs import ROOT
from tests.harness.sweeps import TINY, run, status

LONG = ("trainer.duration=300st", "trainer.log_every=2", "trainer.eval_every=150st", "trainer.save_every=50st")


def start(folder: Path, *arguments: str, script: str = "train.py") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def states(sweep: Path) -> dict[int, str]:
    return {row.number: row.state for row in outcome.rows(sweep)}


def content(folder: Path) -> dict[str, str]:
    """The bytes of every file, hashed."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def attempts(sweep: Path) -> dict[int, int]:
    return {row.number: row.status.attempt for row in outcome.rows(sweep)}


@pytest.fixture(scope="module")
def half_failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A sweep of four jobs, of which numbers 1 and 3 fail: its folder, its exit code and what it said."""
    folder = tmp_path_factory.mktemp("sweeps")
    code, said = run(folder, "-m", *TINY, "optimizer=sgd", "seed=0,1", "optimizer.lr=0.1,1e30", "hydra.sweep.dir=s")
    return folder / "s", code, said


def test_jobs_that_fail_hide_nobodys_result_and_are_named_in_the_end(half_failed: tuple[Path, int, str]) -> None:
    sweep, code, said = half_failed
    assert states(sweep) == {0: "DONE", 1: "FAILED", 2: "DONE", 3: "FAILED"}
    assert code == 71  # not a number
    lines = said[said.rindex("\nlr ") + 1 :].splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["lr", "0.1", "1e+30"]
    assert lines[2].split()[1:] == ["-", "-", "0/2"]
    assert any(line.startswith("not in the table: 2 FAILED, jobs 1, 3: nonfinite: ") for line in lines)
    failures = next(number for number, line in enumerate(lines) if line.startswith("2 FAILED: nonfinite: "))
    assert lines[failures].endswith("(jobs 1, 3)")
    assert lines[failures + 1].startswith("best      optimizer.lr=0.1: val/top1 ")
    assert lines[-4:-1] == [f"page      {sweep.resolve()}/sweep.html", "2 DONE, 2 FAILED", "sweep: s"]
    assert lines[-1] == f"to retry what failed: python {ROOT}/scripts/sweep.py retry s"


def test_a_jobs_folder_is_as_hydra_writes_it_and_as_a_single_runs(half_failed: tuple[Path, int, str]) -> None:
    job = half_failed[0] / "2"
    assert yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text())[-2:] == ["seed=1", "optimizer.lr=0.1"]
    assert yaml.safe_load((job / ".hydra" / "hydra.yaml").read_text())["hydra"]["job"]["num"] == 2
    assert yaml.safe_load((job / ".hydra" / "config.yaml").read_text())["seed"] == 1
    assert yaml.safe_load((job / "config.yaml").read_text())["optimizer"]["lr"] == 0.1
    assert "step 12/12" in (job / "train.log").read_text()
    assert (half_failed[0] / "multirun.yaml").exists()


def test_a_job_ends_with_the_bits_of_the_same_run_alone(half_failed: tuple[Path, int, str], tmp_path: Path) -> None:
    code, said = run(tmp_path, *TINY, "optimizer=sgd", "seed=1", "optimizer.lr=0.1", "hydra.run.dir=alone")
    assert code == 0, said
    of_the_job = (half_failed[0] / "2" / "last.safetensors").read_bytes()
    assert (tmp_path / "alone" / "last.safetensors").read_bytes() == of_the_job
    assert (half_failed[0] / "0" / "last.safetensors").read_bytes() != of_the_job


def test_retry_runs_what_failed_and_touches_nothing_else(half_failed: tuple[Path, int, str]) -> None:
    sweep, _, _ = half_failed
    before, done = attempts(sweep), {n: content(sweep / str(n)) for n in (0, 2)}
    code, said = run(sweep.parent, "retry", "s", script="scripts/sweep.py")
    assert code == 71, said  # they fail again, for the same reason
    assert attempts(sweep) == {n: count + (n in (1, 3)) for n, count in before.items()}
    assert {n: content(sweep / str(n)) for n in (0, 2)} == done


def test_values_added_get_the_next_numbers_and_what_is_done_is_left_alone(half_failed: tuple[Path, int, str]) -> None:
    sweep, _, _ = half_failed
    before, done = attempts(sweep), {n: content(sweep / str(n)) for n in (0, 2)}
    typed = ("-m", *TINY, "optimizer=sgd", "seed=5,0,1", "optimizer.lr=0.1", "hydra.sweep.dir=s")
    code, said = run(sweep.parent, *typed)
    assert code == 0, said  # the failed ones are not part of this command
    assert {n: content(sweep / str(n)) for n in (0, 2)} == done
    assert states(sweep)[4] == "DONE" and attempts(sweep) == before | {4: 1}
    assert yaml.safe_load((sweep / "4" / "config.yaml").read_text())["seed"] == 5
    assert "not part of this command, and left alone: 2 jobs of" in said


def test_one_bad_job_and_none_starts(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-m", *TINY, "seed=0,1,-1", "model=tiny,tinny", "hydra.sweep.dir=s")
    assert code == 64 and list(tmp_path.iterdir()) == []
    assert "4 of 6 jobs invalid" in said and "did you mean: model=tiny" in said


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A sweep of three jobs, two at a time, both in the midst of training; its parameter replaces LONG."""
    pool = ("hydra/launcher=gpu_pool", "hydra.launcher.slots=2")
    process = start(tmp_path, "-m", *getattr(request, "param", LONG), "seed=0,1,2", *pool, "name=two")
    wait_for(lambda: len(list(tmp_path.glob("outputs/two/*/[01]/metrics.jsonl"))) == 2)
    (sweep,) = tmp_path.glob("outputs/two/*")
    wait_for(lambda: all(row.status.step >= 4 for row in outcome.rows(sweep)[:2]))
    yield sweep, process
    if process.poll() is None:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
    for row in outcome.rows(sweep):  # of a driver that was killed
        if row.state == "RUNNING":
            os.kill(row.status.pid, signal.SIGKILL)


def reference(folder: Path, seeds: Sequence[int]) -> dict[int, bytes]:
    code, said = run(folder, "-m", *LONG, f"seed={','.join(map(str, seeds))}", "hydra.sweep.dir=left_alone")
    assert code == 0, said
    return {seed: (folder / f"left_alone/{place}/last.safetensors").read_bytes() for place, seed in enumerate(seeds)}


def test_a_sweep_that_was_stopped_goes_on_by_the_command_in_its_last_line(
    running: tuple[Path, subprocess.Popen[str]], tmp_path: Path
) -> None:
    sweep, process = running
    os.kill(outcome.rows(sweep)[1].status.pid, signal.SIGKILL)
    wait_for(lambda: (sweep / "2" / "metrics.jsonl").exists())
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert states(sweep) == {0: "PREEMPTED", 1: "LOST", 2: "PREEMPTED"}
    assert process.returncode == 137 and "stopped by SIGINT: 2 of 3 jobs not finished" in said
    again = said.splitlines()[-1]
    assert again.startswith("python ") and again.endswith(f"hydra.sweep.dir={sweep.relative_to(tmp_path)}")
    code, said = run(tmp_path, *again.split()[2:])
    assert code == 0 and set(states(sweep).values()) == {"DONE"}, said
    weights = {number: (sweep / str(number) / "last.safetensors").read_bytes() for number in range(2)}
    assert weights == reference(tmp_path, [0, 1])


def test_after_its_driver_was_killed_the_sweep_shows_the_same_and_resume_auto_goes_on(
    running: tuple[Path, subprocess.Popen[str]], tmp_path: Path
) -> None:
    sweep, process = running
    process.kill()
    process.communicate(timeout=60)
    assert states(sweep)[2] == "PENDING" and {states(sweep)[0], states(sweep)[1]} <= {"RUNNING", "DONE"}
    code, said = run(tmp_path, "-m", *LONG, "seed=0,1,2,3", "name=two", "resume=auto")
    assert code == 0, said
    assert list((tmp_path / "outputs" / "two").iterdir()) == [sweep]
    assert states(sweep) == dict.fromkeys(range(4), "DONE")
    assert attempts(sweep) == {0: 1, 1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("running", [("trainer.duration=100000st", *LONG[1:3])], indirect=True, ids=["endless"])
def test_jobs_that_outlived_their_driver_are_cancelled_all_the_same(
    running: tuple[Path, subprocess.Popen[str]],
) -> None:
    sweep, process = running
    process.kill()
    process.communicate(timeout=60)
    pids = [row.status.pid for row in outcome.rows(sweep)[:2]]
    code, said = run(sweep.parent, "cancel", str(sweep), script="scripts/sweep.py")
    assert code == 0 and all(f"process {pid} was told to save and stop" in said for pid in pids), said
    wait_for(lambda: states(sweep) == {0: "PREEMPTED", 1: "PREEMPTED", 2: "PENDING"}, 60)


@pytest.mark.parametrize("running", [("trainer.duration=100000st", *LONG[1:3])], indirect=True, ids=["endless"])
def test_one_process_drives_a_sweep_and_another_is_told_so(running: tuple[Path, subprocess.Popen[str]]) -> None:
    sweep, process = running
    root = str(sweep)
    code, said = run(sweep.parent, "-m", *LONG, "seed=0,1,2", f"hydra.sweep.dir={root}")
    assert code == 69 and f"another process runs the sweep {root}: pid {process.pid}" in said
    code, said = run(sweep.parent, "retry", root, script="scripts/sweep.py")
    assert code == 0 and "nothing to retry" in said
    code, said = run(sweep.parent, "cancel", root, script="scripts/sweep.py")
    assert code == 0 and f"process {process.pid} was told to save and stop" in said
    process.communicate(timeout=120)
    assert process.returncode == 75 and states(sweep) == {0: "PREEMPTED", 1: "PREEMPTED", 2: "PENDING"}


def test_each_job_may_have_several_processes(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-m", *TINY, "seed=0,1", "trainer.devices=2", "device=cpu", "hydra.sweep.dir=s")
    assert code == 0, said
    assert states(tmp_path / "s") == {0: "DONE", 1: "DONE"}


def test_launchers_of_hydras_own_are_given_the_checked_configs_too(tmp_path: Path) -> None:
    typed = ("-m", *TINY, "optimizer=sgd", "optimizer.lr=1e30,0.1", "hydra/launcher=basic", "hydra.sweep.dir=s")
    code, said = run(tmp_path, *typed)
    assert code == 71 and states(tmp_path / "s") == {0: "FAILED", 1: "DONE"}, said
    code, said = run(tmp_path, *typed)
    assert code == 71 and attempts(tmp_path / "s") == {0: 2, 1: 1}, said


def test_the_search_that_ships_is_a_sweep_of_rates_and_seeds(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-m", "search=lr_x_seeds", *TINY, "check=true")
    assert code == 0 and "job 11 of 12" in said, said
    code, said = run(tmp_path, "search=lr_x_seeds", *TINY)
    assert code == 64 and "type instead: -m search=lr_x_seeds" in said, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_job_of_a_long_sweep_costs_a_third_of_a_second_beyond_its_training(tmp_path: Path) -> None:
    def cpu(count: int) -> float:
        """Seconds that a sweep of so many tiny jobs computes, with all its processes."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code, said = run(tmp_path, "-m", "trainer.duration=5st", f"seed=range(0,{count})", f"hydra.sweep.dir=s{count}")
        assert code == 0, said
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def begun(number: int) -> dict[str, Any]:
        return json.loads((tmp_path / "s20" / str(number) / "attempts.jsonl").read_text().splitlines()[0])

    def trained(number: int) -> float:
        return float(json.loads((tmp_path / "s20" / str(number) / "summary.json").read_text())["seconds"])

    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    # What is computed takes as long on a crowded machine, but for caches and cores that are shared with others.
    computed = (cpu(20) - cpu(2)) / 18 - min(trained(n) for n in range(20))
    assert computed < 0.3 * min(crowd, 1.5), computed
    # What is waited for is in every job alike.
    costs = [begun(n + 1)["started"] - begun(n)["started"] - trained(n) for n in range(1, 19)]
    assert min(costs) < 0.3 * min(crowd, 1.5), sorted(costs)


@pytest.mark.slow
def test_of_a_hundred_jobs_exactly_what_failed_and_what_was_lost_runs_again_in_its_folder(tmp_path: Path) -> None:
    """13 failed in three ways, 4 lost, 2 running, 81 done, of which only the files are there."""
    checked = check_sweep(Composer(ROOT / "conf"), [*TINY, "seed=range(0,100)", f"hydra.sweep.dir={tmp_path}/s"])
    (tmp_path / "s").mkdir()
    jobs = assign_numbers(tmp_path / "s", checked.jobs)
    (tmp_path / "s/multirun.yaml").write_text(OmegaConf.to_yaml(checked.master))
    ways = [("nonfinite", 71)] * 8 + [("data", 65)] * 4 + [("internal", 70)]
    failed, lost, busy = range(3, 68, 5), (90, 91, 92, 93), (95, 96)
    for job in jobs:
        number = job.number
        row = status("LOST" if number in lost else "RUNNING" if number in busy else "DONE")
        if number in failed:
            reason, code = ways[(number - 3) // 5]
            row = status("FAILED", reason=reason, message=reason, exit_code=code)
        (job.folder / "status.json").write_text(json.dumps(row))
    others = {n: content(tmp_path / "s" / str(n)) for n in range(100) if n not in failed and n not in lost}
    code, said = run(tmp_path, "retry", "s", script="scripts/sweep.py")
    found = outcome.rows(tmp_path / "s")
    assert {row.number for row in found if row.status.total == 12} == {*failed, *lost}, said
    assert Counter(row.state for row in found) == {"DONE": 98, "RUNNING": 2}
    assert {n: content(tmp_path / "s" / str(n)) for n in others} == others
    assert code == 0
    again = run(tmp_path, "retry", "s", script="scripts/sweep.py")
    assert (again[0], "nothing to retry" in again[1]) == (0, True)
