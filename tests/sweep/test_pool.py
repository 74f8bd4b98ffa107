"""Jobs side by side: one's end concerns no other, signals arrive once, and nobody trains on unseen."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plainloop.config.explain.problems import InvalidConfig
from plainloop.run_dir.status import read_status
from plainloop.sweep.job import Job
from plainloop.sweep.local.gpu_pool import gpus_of_slots
from plainloop.sweep.local.launch import record_early_death
from plainloop.sweep.local.pool import Pool
from tests.harness.children import runs, wait_for

CONFIG = {"trainer": {"devices": "auto"}, "device": "auto"}


def jobs(folder: Path, count: int) -> list[Job]:
    return [Job(n, (f"seed={n}",), folder / str(n), str(n), CONFIG, b"") for n in range(count)]


def test_whatever_ends_one_job_the_others_run(tmp_path: Path) -> None:
    def run(job: Job) -> int:
        if job.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.number == 1:
            raise ValueError("this job's own affair")
        if job.number == 2:
            raise SystemExit(3)
        (tmp_path / str(job.number)).touch()
        return job.number

    codes = Pool([[]], run).run_all(jobs(tmp_path, 5))
    assert codes == {0: 137, 1: 70, 2: 70, 3: 3, 4: 4}
    assert (tmp_path / "4").exists()


def test_the_next_job_takes_the_place_and_the_gpus_of_the_first_that_ends(tmp_path: Path) -> None:
    def run(job: Job) -> int:
        (tmp_path / f"began{job.number}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        assert len(list(tmp_path.glob("began*"))) - len(list(tmp_path.glob("ended*"))) <= 2
        if job.number == 0:  # not a batch of two that waits for its slowest
            wait_for((tmp_path / "began2").exists)
        (tmp_path / f"ended{job.number}").touch()
        return 0

    assert Pool([["0", "1"], ["2", "3"]], run).run_all(jobs(tmp_path, 4)) == dict.fromkeys(range(4), 0)
    assert [(tmp_path / f"began{n}").read_text() for n in range(3)] == ["0,1", "2,3", "2,3"]


def test_a_single_place_leaves_threads_and_devices_as_a_single_run_has_them(tmp_path: Path) -> None:
    def run(job: Job) -> int:
        seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        (tmp_path / "seen").write_text(json.dumps(seen))
        return 0

    Pool([[]], run, limit_gpus=False).run_all(jobs(tmp_path, 1))
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen == {name: os.environ.get(name) for name in seen}


NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aa, 9.0, NVIDIA H200"
echo "1, GPU-bb, 9.0, NVIDIA H200"
echo "2, GPU-cc, 9.0, NVIDIA H200"
"""


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver lists three GPUs."""
    from plainloop.system.gpus import gpus

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus.cache_clear()
    yield
    gpus.cache_clear()


@pytest.mark.parametrize(
    ("visible", "per_job", "slots", "expected"),
    [
        (None, 1, "auto", [["0"], ["1"], ["2"]]),
        (None, 2, "auto", [["0", "1"]]),
        (None, 1, 2, [["0"], ["1"]]),
        ("2,0", 1, "auto", [["2"], ["0"]]),
        ("GPU-cc,GPU-aa", 1, "auto", [["GPU-cc"], ["GPU-aa"]]),
        ("0,7,1", 1, "auto", [["0"]]),  # an entry that is no device hides those after it
        ("", 1, 2, [[], []]),
        (None, 0, 2, [[], []]),
    ],
)
@pytest.mark.usefixtures("three_gpus")
def test_jobs_are_dealt_the_gpus_that_are_visible(
    visible: str | None, per_job: int, slots: int | str, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_of_slots(per_job, slots, 1, configs=[CONFIG]) == expected


@pytest.mark.parametrize(
    ("slots", "expected"),
    [("auto", [["0"], ["1"], ["2"], ["0"], ["1"], ["2"]]), (4, [["0"], ["1"], ["2"], ["0"]])],
)
@pytest.mark.usefixtures("three_gpus")
def test_jobs_that_share_gpus_are_dealt_to_all_gpus_in_turn(slots: int | str, expected: list[list[str]]) -> None:
    assert gpus_of_slots(1, slots, 2, configs=[CONFIG]) == expected


@pytest.mark.parametrize(
    ("per_job", "slots", "devices", "match"),
    [
        (4, "auto", "auto", "gpus_per_job: is more than the visible GPUs, got 4"),
        (1, "auto", 2, "type instead: hydra.launcher.gpus_per_job=2"),
        (1, "auto", [2], "type instead: hydra.launcher.gpus_per_job=3"),
    ],
)
@pytest.mark.usefixtures("three_gpus")
def test_what_cannot_be_dealt_is_refused(per_job: int, slots: object, devices: object, match: str) -> None:
    with pytest.raises(InvalidConfig, match=match.replace("[", r"\[")):
        gpus_of_slots(per_job, slots, 1, configs=[CONFIG | {"trainer": {"devices": devices}}])


# A process that drives three jobs, of which two at a time wait for a signal and write down each that they get.
DRIVER = """
import os, signal, sys, time
from pathlib import Path
from plainloop.sweep.local import pool
from plainloop.sweep.job import Job

folder = Path(sys.argv[1])
if "no-session" in sys.argv:
    os.setsid = lambda: None

def run(job):
    seen = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda n, frame: seen.append(signal.Signals(n).name))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, pool.SIGNALS)
    (folder / f"began{job.number}").write_text(str(os.getpid()))
    end = time.monotonic() + 60
    while time.monotonic() < end and not seen:
        time.sleep(0.01)
    time.sleep(0.5)  # for one signal too many
    (folder / f"seen{job.number}").write_text(" ".join(seen))
    return 75

found = pool.Pool([[], []], run)
codes = found.run_all([Job(n, (), folder / str(n), str(n), {"trainer": {"devices": 1}}, b"") for n in range(3)])
print(codes, found.stopped_by)
"""


def driven(folder: Path, send: Callable[[int], None], *words: str) -> tuple[str, list[str]]:
    """What the driver says, and the signals that each job got that was started."""
    script = folder / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(folder), *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: all((folder / f"began{n}").exists() for n in (0, 1)))
    send(driver.pid)
    said, _ = driver.communicate(timeout=60)
    wait_for(lambda: all((folder / f"seen{n}").exists() for n in (0, 1)))
    return said.strip(), [path.read_text() for path in sorted(folder.glob("seen*"))]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2"])
def test_a_signal_is_passed_on_once_and_nothing_more_is_started(name: str, tmp_path: Path) -> None:
    said, seen = driven(tmp_path, lambda pid: os.kill(pid, signal.Signals[name]))
    assert seen == [name, name]
    assert said in (f"{{0: 75, 1: 75}} {name}", f"{{1: 75, 0: 75}} {name}")  # whichever left first


def test_ctrl_c_at_the_terminal_reaches_jobs_once(tmp_path: Path) -> None:
    _, seen = driven(tmp_path, lambda group: os.killpg(group, signal.SIGINT))
    assert seen == ["SIGINT", "SIGINT"]


def test_without_a_session_of_their_own_they_would_get_it_twice_and_not_save(tmp_path: Path) -> None:
    _, seen = driven(tmp_path, lambda group: os.killpg(group, signal.SIGINT), "no-session")
    # A signal that comes while the same one is pending is lost: a job that had no CPU in between sees it once.
    assert "SIGINT SIGINT" in seen


def test_jobs_of_a_killed_driver_go_on(tmp_path: Path) -> None:
    def kill(driver: int) -> None:
        os.kill(driver, signal.SIGKILL)
        wait_for(lambda: not runs(driver))
        time.sleep(0.5)
        pids = [int((tmp_path / f"began{n}").read_text()) for n in (0, 1)]
        assert all(runs(pid) for pid in pids) and not list(tmp_path.glob("seen*"))
        for pid in pids:
            os.kill(pid, signal.SIGUSR2)

    _, seen = driven(tmp_path, kill)
    assert seen == ["SIGUSR2", "SIGUSR2"]


def test_a_job_that_dies_before_its_run_begins_is_failed_with_what_its_log_ends_with(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    composed = OmegaConf.create({"hydra": {"job": {"name": "train"}, "sweep": {}}})
    job = replace(job, frozen=pickle.dumps(composed))
    job.folder.mkdir()
    job.log_file.write_text("Traceback (most recent call last):\n  ...\nImportError: no module named x\n\n")
    record_early_death(job, 70, attempt=0)
    status = read_status(job.folder)
    assert (status.state, status.reason, status.exit_code) == ("FAILED", "start", 70)
    assert status.message == "ended with exit code 70 before the run began: ImportError: no module named x"
    record_early_death(job, 71, attempt=-1)  # a run that began has said it itself
    assert read_status(job.folder) == status
