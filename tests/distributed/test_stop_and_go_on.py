"""One rank asked to stop stops all; the run goes on with the same order on as many ranks as there are then."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.errors import BadConfig, Preempted
from plainloop.loop import trainer
from plainloop.run_dir.status import read_status
from plainloop.system import storage
from tests.harness import inject, ranks
from tests.harness.configs import checked
from tests.harness.runs import TASKS, by_task, differences, remains, train

RUN = (
    "trainer.duration=33st",
    "trainer.log_every=7",
    "trainer.save_every=4st",
    "trainer.ema_decay=0.9",
    "device=cpu",
)
STEPS = 33

# Neither dropout, whose draws differ by rank, nor BatchNorm, whose statistics are of a rank's rows.
ALIKE_ON_RANKS: dict[str, tuple[str, ...]] = {
    "classification": (
        *("model=timm", "model.model_name=vit_tiny_patch16_224", "+model.img_size=8", "+model.patch_size=4"),
        *("+model.embed_dim=16", "+model.depth=1", "+model.num_heads=2", "data.batch_size=240"),
    ),
    # Dice is computed in each part; the accuracy of batches is averaged with the weights of the loss.
    "segmentation": (
        *(*TASKS["segmentation"], "task.losses.dice=0", "task.class_weights=null", "trainer.freeze_batchnorm=true"),
    ),
    "detection": (*TASKS["detection"], "trainer.freeze_batchnorm=true"),
}


def signalled_at(step: int, rank: int, number: int = signal.SIGTERM) -> ranks.AtStep:
    def at_step(done: int) -> None:
        if done == step and collectives.rank() == rank:
            os.kill(os.getpid(), number)

    return at_step


def finish(config: dict[str, Any], folder: Path, world_size: int = 2) -> None:
    assert ranks.wait(ranks.start_run(config, folder, world_size)) == [0] * world_size


Untouched = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Untouched:
    def left(task: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("untouched") / "run"
        finish(checked(*TASKS[task], *RUN), folder)
        return remains(folder)

    return functools.cache(left)


@pytest.mark.parametrize(("task", "rank"), [("classification", 0), *((task, 1) for task in TASKS)])
def test_one_rank_signalled_stops_both_at_the_same_step_saved(
    tmp_path: Path, untouched: Untouched, task: str, rank: int
) -> None:
    config, folder = checked(*TASKS[task], *RUN), tmp_path / "run"

    def at_step(done: int) -> None:
        (tmp_path / f"last{collectives.rank()}").write_text(str(done))
        signalled_at(9, rank)(done)

    codes = ranks.wait(ranks.start_run(config, folder, 2, at_step))
    assert codes == [Preempted.code] * 2
    status = read_status(folder)
    assert [int((tmp_path / f"last{one}").read_text()) + 1 for one in (0, 1)] == [status.step] * 2
    assert status.state == "PREEMPTED"
    assert status.checkpoint == f"step_{status.step:08d}.pt"
    assert 9 < status.step < STEPS
    finish(config, folder)
    assert differences(untouched(task), remains(folder)) == []


def test_a_lost_window_of_the_second_rank_would_be_noticed(
    tmp_path: Path, untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = checked(*TASKS["classification"], *RUN), tmp_path / "run"
    ranks.wait(ranks.start_run(config, folder, 2, signalled_at(9, 1)))
    monkeypatch.setattr(collectives, "gather", lambda value: [value])
    finish(config, folder)
    assert "rows" in differences(untouched("classification"), remains(folder))


def seen(config: dict[str, Any], folder: Path, worlds: list[tuple[int, int]]) -> dict[int, list[int]]:
    """Samples of every step, sorted, of a run that goes through worlds of (ranks, step at which it is stopped)."""

    def look(step: int, batch: Batch) -> None:
        note = folder.parent / f"{folder.name}.seen{collectives.rank()}"  # one writer a file
        storage.append_line(note, {"step": step, "index": batch["index"].tolist()})

    def act(stop: int) -> None:
        from plainloop.run.run import run

        at_step = signalled_at(stop, 0)
        inject.before_updates(lambda step, batch: (look(step, batch), at_step(step))[0])
        run(config, folder)

    for world_size, stop in worlds:
        pids = ranks.start(ranks.new_meeting(folder), world_size, functools.partial(act, stop))
        assert set(ranks.wait(pids)) <= {0, Preempted.code}
    found: dict[int, list[int]] = {}
    for note in folder.parent.glob(f"{folder.name}.seen*"):
        for row in storage.read_lines(note):
            found.setdefault(row["step"], []).extend(row["index"])
    return {step: sorted(samples) for step, samples in found.items()}


# Plain descent: Adam divides by the gradient's size, and would make 1e-8 of a gradient near 0 a difference of 1e-3.
def elsewhere(task: str) -> dict[str, Any]:
    return checked(*ALIKE_ON_RANKS[task], "optimizer=sgd", "optimizer.lr=0.02", *RUN)


Through = Callable[[str], tuple[Path, dict[int, list[int]]]]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Through:
    """A run on 1, 2, 1 and 4 ranks, and its samples of every step; beside it what it was before the last change."""

    def made(task: str) -> tuple[Path, dict[int, list[int]]]:
        folder = tmp_path_factory.mktemp("through") / "run"
        seen(elsewhere(task), folder, [(1, 3), (2, 12), (1, 20)])
        shutil.copytree(folder, folder.parent / "before")
        return folder, seen(elsewhere(task), folder, [(4, STEPS)])

    return functools.cache(made)


@by_task
def test_another_number_of_ranks_sees_the_same_samples_and_comes_to_the_same_losses(
    tmp_path: Path, through: Through, task: str
) -> None:
    alone = seen(elsewhere(task), tmp_path / "alone", [(1, STEPS)])
    folder, seen_there = through(task)
    assert alone == seen_there
    assert sorted(alone) == list(range(STEPS))
    for mine, theirs in zip(remains(tmp_path / "alone")["rows"], remains(folder)["rows"], strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            # Scores of a hardly trained detector are equal but for rounding; average precision is about their order.
            if task != "detection" or key.startswith("train/"):
                assert np.isclose(mine[key], theirs[key], rtol=1e-5, atol=0), (mine["step"], key)


def test_between_two_changes_of_ranks_the_run_is_exact(tmp_path: Path, through: Through) -> None:
    folder, _ = through("classification")
    shutil.copytree(folder.parent / "before", tmp_path / "run")
    seen(elsewhere("classification"), tmp_path / "run", [(4, 24), (4, STEPS)])
    assert differences(remains(folder), remains(tmp_path / "run")) == []


def test_buckets_that_ddp_lays_out_after_the_first_step_would_be_noticed(
    tmp_path: Path, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "fix_ddp_bucket_order", lambda *given: None)
    for name, worlds in (("alone", [(4, STEPS)]), ("stopped", [(4, 24), (4, STEPS)])):
        shutil.copytree(through("classification")[0].parent / "before", tmp_path / name)
        seen(elsewhere("classification"), tmp_path / name, worlds)
    assert "last.safetensors" in differences(remains(tmp_path / "alone"), remains(tmp_path / "stopped"))


def test_another_number_of_ranks_is_not_exact(through: Through, tmp_path: Path) -> None:
    """Else the one before would show nothing."""
    folder, _ = through("classification")
    shutil.copytree(folder.parent / "before", tmp_path / "run")
    seen(elsewhere("classification"), tmp_path / "run", [(2, STEPS)])
    assert differences(remains(folder), remains(tmp_path / "run")) != []


def drawing_unequally(step: int) -> None:
    """Rank 1 draws more often, and not equally often in each step, before the model draws its dropout."""
    if collectives.rank() == 1:
        torch.rand(step % 5 + 1)


def test_ranks_that_draw_unequally_often_are_exact_after_a_stop(tmp_path: Path, untouched: Untouched) -> None:
    config = checked(*TASKS["classification"], *RUN)

    def stopping(step: int) -> None:
        drawing_unequally(step)
        signalled_at(9, 0)(step)

    assert ranks.wait(ranks.start_run(config, tmp_path / "left alone", 2, drawing_unequally)) == [0, 0]
    assert ranks.wait(ranks.start_run(config, tmp_path / "stopped", 2, stopping)) == [Preempted.code] * 2
    assert ranks.wait(ranks.start_run(config, tmp_path / "stopped", 2, drawing_unequally)) == [0, 0]
    left_alone = remains(tmp_path / "left alone")
    assert differences(left_alone, remains(tmp_path / "stopped")) == []
    assert "last.safetensors" in differences(
        untouched("classification"), left_alone
    )  # else these draws would have changed nothing


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused_with_both_sizes(tmp_path: Path) -> None:
    finish(checked(*TASKS["classification"], *RUN, "trainer.duration=1st"), tmp_path / "run")
    refused = train(tmp_path, "resume=run", "trainer.devices=7", "trainer.duration=9ep")
    assert refused.code == BadConfig.code
    assert "does not divide by 7 = 7 (ranks; the run began on 2) x 1" in refused.err
    assert "got 240 (global)" in refused.err
