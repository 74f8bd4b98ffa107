"""Every job of a sweep is checked before the first exists."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plainloop.config.compose.composer import Composer
from plainloop.config.explain.problems import InvalidConfig
from plainloop.sweep.check import check_sweep
from tests.harness.commands import COMPOSER, ROOT


def test_jobs_are_the_product_of_all_lists_the_last_one_fastest() -> None:
    found = check_sweep(COMPOSER, ["optimizer=sgd,adamw", "seed=range(0,3)"])
    assert [job.overrides for job in found.jobs] == [
        (f"optimizer={name}", f"seed={seed}") for name in ("sgd", "adamw") for seed in range(3)
    ]
    assert [job.config["seed"] for job in found.jobs] == [0, 1, 2, 0, 1, 2]
    assert found.jobs[0].config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert [job.folder.name for job in found.jobs] == ["0", "1", "2", "3", "4", "5"]


def test_the_check_starts_no_threads_because_its_process_forks_the_jobs() -> None:
    """A fork that computes with several threads waits for ever where its parent has started some."""
    look = """
import os, torch
from pathlib import Path
from tests.harness.commands import passed

torch.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
passed("augment=crop_flip", "data.batch_size=1024", "threads=2")
print(len(os.listdir("/proc/self/task")) - before)
torch.zeros(2000, 2000)
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_the_message_names_the_job_its_overrides_the_key_the_file_and_the_fix() -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_sweep(COMPOSER, ["optimizer=sgd,adamw", "trainer.duration=3ep,4,5ep"])
    assert str(caught.value).splitlines() == [
        "config error in jobs 1, 4 of 6   (optimizer=sgd trainer.duration=4)",
        "  trainer.duration: wrong type or value, got 4 (int)",
        "    expected: a duration with its unit: 4ep or 4st",
        "    given by: command line override trainer.duration=4",
        "    type instead: trainer.duration=4ep, or trainer.duration=4st",
        "nothing was submitted (2 of 6 jobs invalid)",
    ]


def test_all_invalid_jobs_are_listed_at_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_sweep(COMPOSER, ["optimizer.lr=0.1,abc", "model=tiny,tinny", "seed=0,-1"])
    text = str(caught.value)
    assert "7 of 8 jobs invalid" in text
    assert {"optimizer.lr", "model", "seed"} == {problem.key for problem in caught.value.problems}


def test_an_override_that_is_wrong_in_every_job_is_told_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_sweep(COMPOSER, ["optimizer.learning_rte=0.1", "seed=0,1,2,3"])
    assert str(caught.value).count("optimizer.learning_rte: ") == 1
    assert "jobs 0, 1, 2, 3 of 4" in str(caught.value)


def test_two_jobs_may_not_share_a_folder() -> None:
    with pytest.raises(InvalidConfig, match="is the folder of job 0 too"):
        check_sweep(COMPOSER, ["seed=0,1", "hydra.sweep.subdir=same"])


KINDS = {
    "type": (["model=tiny"], "optimizer.lr", "0.1", "O.1"),
    "range": (["model=tiny"], "optimizer.lr", "0.1", "-0.1"),
    "option": ([], "optimizer", "adamw", "admaw"),
    "across groups": (["trainer.accumulate=2"], "data.batch_size", "64", "63"),
    "unit": ([], "trainer.duration", "3ep", "3"),
    "timm": (["model=timm"], "model.model_name", "resnet18", "resent18"),
    "data": (["data=image_folder", "data.image_size=16"], "data.root", "{images}", "/nowhere/at/all"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_wrong_with_one_job_is_found_and_named(kind: str, photos: Any) -> None:
    given, key, right, wrong = KINDS[kind]
    right = right.format(images=photos({"a": 65, "b": 65})) if kind == "data" else right
    values = [right, wrong, right]
    with pytest.raises(InvalidConfig) as caught:
        check_sweep(COMPOSER, [f"{key}={','.join(values)}", *given])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"config error in job 1 of 3   ({' '.join([f'{key}={wrong}', *given])})"
    assert lines[-1] == "nothing was submitted (1 of 3 jobs invalid)"
    assert any(label in str(caught.value) for label in ("type instead: ", "next: ", "did you mean: ", "expected: "))
    assert f"given by: command line override {key}={wrong}" in str(caught.value) or kind == "data"


@pytest.mark.slow
def test_a_thousand_jobs_are_checked_in_time(tmp_path: Path) -> None:
    """As typed: a process of its own, imports included."""
    typed = [sys.executable, str(ROOT / "train.py"), "-m", "check=true", "seed=range(0,1000)"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "job 999 of 1000" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 45  # of CPU; 30 on an idle machine


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("seed=range(3,0)", "has no value to try, got range(3,0)"),
        ("optimizer=glob(zz*)", "has no value to try, got glob(zz*)"),
        ("seed=1,,2", "has an empty value in its list"),
        ("seed=,", "has an empty value in its list"),
        ("optimizer.lr=interval(0.1,0.2)", "has no list of values, got interval(0.1,0.2)"),
        ("hydra.launcher.slots=1,2", "is one for the whole sweep, got 1,2"),
        ("hydra/launcher=local,gpu_pool", "is one for the whole sweep, got local,gpu_pool"),
    ],
)
def test_what_is_no_list_of_values_is_told(override: str, what: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_sweep(COMPOSER, ["model=tiny", override])
    (problem,) = caught.value.problems
    assert problem.lines()[0].startswith(f"  {override.partition('=')[0]}: {what}")
    assert problem.given_by == f"command line override {override}"


def test_options_that_a_pattern_finds_are_swept() -> None:
    found = check_sweep(COMPOSER, ["optimizer=glob(adam*)"])
    assert [job.overrides for job in found.jobs] == [("optimizer=adam",), ("optimizer=adamw",)]


def test_a_job_that_is_there_twice_is_a_warning() -> None:
    found = check_sweep(COMPOSER, ["seed=1,2,1"])
    same = [text for text in found.warnings if "the same" in text]
    assert same == ["jobs 0 and 2 of this sweep are the same: seed=1"]


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("slots=0", "hydra.launcher.slots=auto, or hydra.launcher.slots=2"),
        ("slots=two", "hydra.launcher.slots=auto, or hydra.launcher.slots=2"),
        ("gpus_per_job=-1", "hydra.launcher.gpus_per_job=1"),
        ("jobs_per_gpu=0", "hydra.launcher.jobs_per_gpu=1"),
    ],
)
def test_places_for_jobs_are_checked_with_them(override: str, instead: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_sweep(COMPOSER, ["seed=0,1", "hydra/launcher=gpu_pool", f"hydra.launcher.{override}"])
    (problem,) = caught.value.problems
    assert (problem.instead, problem.given_by) == (instead, f"command line override hydra.launcher.{override}")


def test_a_sweeper_is_a_plugin_of_hydra() -> None:
    with pytest.raises(InvalidConfig, match=r"hydra\.sweeper\._target_: is no plugin of Hydra, got os\.system"):
        check_sweep(COMPOSER, ["seed=0,1", "hydra.sweeper._target_=os.system"])


def test_a_search_space_is_part_of_the_sweep(tmp_path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "lr.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      optimizer.lr: 0.1,0.2\n      seed: range(0,2)\n"
    )
    found = check_sweep(Composer(ROOT / "conf", extra_dir=tmp_path), ["search=lr"])
    assert [job.config["optimizer"]["lr"] for job in found.jobs] == [0.1, 0.1, 0.2, 0.2]


def test_batch_sizes_per_device_can_be_swept() -> None:
    found = check_sweep(COMPOSER, ["++data.batch_size_per_device=8,16"])
    assert [job.config["data"]["batch_size"] for job in found.jobs] == [8, 16]
