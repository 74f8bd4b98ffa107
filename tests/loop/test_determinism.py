"""What watches a run, and where and how often it is written down, changes no bit of it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.loggers.jsonl import Jsonl
from plainloop.run_dir.journal import Journal
from plainloop.tasks.average_precision import AveragePrecision
from plainloop.tasks.classification import Accuracy
from plainloop.tasks.iou import MeanIoU
from tests.harness import inject
from tests.harness.configs import ROOT
from tests.harness.runs import SMALL, STATEFUL, TASKS, Prepare, by_task, start, train

# Everything that draws: dropout, and augmentation on the device.
RUN = (*SMALL, *STATEFUL, "hydra.run.dir=run")
OBSERVERS: dict[str, tuple[str, ...]] = {
    "another folder": ("hydra.run.dir=some/where/else",),
    "logging every step": ("trainer.log_every=1",),
    "hardly logging": ("trainer.log_every=100",),
    "saving every step": ("trainer.save_every=1st",),
    "never saving": ("trainer.save_every=never",),
    "saving by the clock": ("checkpoint.every_minutes=0.0001",),
    "never evaluating": ("trainer.eval_every=never",),
    "evaluating every step": ("trainer.eval_every=1st",),
    "csv": ("logger=csv",),
    "verbose": ("hydra.verbose=true",),
    "workers": ("data.num_workers=2",),
}
OF_TASK = {
    "classification": tuple(OBSERVERS),
    "segmentation": ("hardly logging", "saving every step", "never evaluating", "evaluating every step"),
    "detection": ("saving every step", "evaluating every step"),
}
OF_METRICS = [(kind, method) for kind in (Accuracy, MeanIoU, AveragePrecision) for method in ("update", "compute")]
Plain = Callable[[str], bytes]


def weights(folder: Path, task: str, *more: str, prepare: Prepare = lambda: None) -> bytes:
    folder.mkdir(exist_ok=True)
    ended = train(folder, *RUN, *TASKS[task], *more, prepare=prepare)
    assert ended.code == 0, ended.err
    (path,) = folder.rglob("last.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    return cache(lambda task: weights(tmp_path_factory.mktemp("plain"), task))


@pytest.mark.parametrize(("task", "observer"), [(task, name) for task in TASKS for name in OF_TASK[task]])
def test_an_observer_changes_no_bit(task: str, observer: str, plain: Plain, tmp_path: Path) -> None:
    assert weights(tmp_path, task, *OBSERVERS[observer]) == plain(task)


def test_fresh_processes_give_the_same_bits(plain: Plain, tmp_path: Path) -> None:
    """Each with its own interpreter, and so with its own addresses; and with its own order of sets."""
    for seed in "123":
        folder = tmp_path / seed
        folder.mkdir()
        command = [sys.executable, str(ROOT / "train.py"), *RUN, *TASKS["classification"]]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=env)
        assert (folder / "run" / "last.safetensors").read_bytes() == plain("classification")


@by_task
def test_another_seed_changes_them(task: str, plain: Plain, tmp_path: Path) -> None:
    """The control: the weights do depend on what is drawn."""
    assert weights(tmp_path, task, "seed=1") != plain(task)


def test_a_terminal_that_is_closed_in_between_changes_no_bit(plain: Plain, tmp_path: Path) -> None:
    ours, its = pty.openpty()

    def screen() -> None:
        for descriptor in (1, 2):
            os.dup2(its, descriptor)
        os.close(its)
        os.environ["TERM"] = "xterm"
        inject.at_step(3, lambda: os.close(ours))()

    run = start(tmp_path, *RUN, *TASKS["classification"], prepare=screen)
    os.close(its)
    while b"\x1b[" not in os.read(ours, 1 << 16):  # until a bar is drawn
        pass
    os.close(ours)  # the run has the last copy
    assert run.wait().code == 0
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == plain("classification")


@by_task
def test_those_who_draw_from_the_global_generators_disturb_nobody(task: str, plain: Plain, tmp_path: Path) -> None:
    """Metrics, a logger and whatever is called at a heartbeat."""

    def draw(*_: Any) -> None:
        torch.rand(7)

    def prepare() -> None:
        for kind, method in (*OF_METRICS, (Jsonl, "log"), (Journal, "running")):
            inject.before(kind, method, draw)

    assert weights(tmp_path, task, prepare=prepare) == plain(task)


def test_an_augmentation_that_draws_more_is_seen(plain: Plain, tmp_path: Path) -> None:
    """The control: draws within a step are its own."""
    from plainloop.loop.trainer import Trainer

    def prepare() -> None:
        inject.before(Trainer, "update", lambda *_: torch.rand(7))

    assert weights(tmp_path, "classification", prepare=prepare) != plain("classification")
