"""One rank asked to stop stops all; the run goes on with the same order on as many ranks as there are then."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainloop import distributed, storage
from plainloop.contracts import Batch
from plainloop.errors import BadConfig, Preempted
from plainloop.journal import read_status
from tests.configs import ROOT, checked
from tests.distributed import gang, lives
from tests.kill.harness import differences, remains

RUN = (
    "model.width=4",
    "model.drop_rate=0.2",
    "data.batch_size=120",
    "trainer.duration=3ep",
    "trainer.log_every=7",
    "trainer.save_every=4st",
    "trainer.ema_decay=0.9",
    "device=cpu",
)
STEPS = 33

# Neither dropout, whose draws differ by rank, nor BatchNorm, whose statistics are of a rank's rows.
VIT = (
    "model=timm",
    "model.model_name=vit_tiny_patch16_224",
    "+model.img_size=8",
    "+model.patch_size=4",
    "+model.embed_dim=16",
    "+model.depth=1",
    "+model.num_heads=2",
)


def signalled_at(step: int, rank: int, number: int = signal.SIGTERM) -> lives.AtStep:
    def at_step(done: int) -> None:
        if done == step and distributed.rank() == rank:
            os.kill(os.getpid(), number)

    return at_step


def finish(config: dict[str, Any], folder: Path, world_size: int = 2) -> None:
    assert gang.wait(lives.begin(config, folder, world_size)) == [0] * world_size


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    finish(checked(*RUN), folder)
    return remains(folder)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_signalled_stops_both_at_the_same_step_saved(
    tmp_path: Path, untouched: dict[str, Any], rank: int
) -> None:
    config, folder = checked(*RUN), tmp_path / "run"
    codes = gang.wait(lives.begin(config, folder, 2, signalled_at(9, rank)))
    assert codes == [Preempted.code] * 2
    status = read_status(folder)
    assert status.state == "PREEMPTED"
    assert status.checkpoint == f"step_{status.step:08d}.pt"
    assert 9 < status.step < STEPS
    finish(config, folder)
    assert differences(untouched, remains(folder)) == []


def test_a_lost_window_of_the_second_rank_would_be_noticed(
    tmp_path: Path, untouched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = checked(*RUN), tmp_path / "run"
    gang.wait(lives.begin(config, folder, 2, signalled_at(9, 1)))
    monkeypatch.setattr(distributed, "gather", lambda value: [value])
    finish(config, folder)
    assert "rows" in differences(untouched, remains(folder))


def seen(config: dict[str, Any], folder: Path, worlds: list[tuple[int, int]]) -> dict[int, list[int]]:
    """Samples of every step, sorted, of a run that goes through worlds of (ranks, step at which it is stopped)."""

    def look(step: int, batch: Batch) -> None:
        note = folder.parent / f"{folder.name}.seen{distributed.rank()}"  # one writer a file
        storage.append_line(note, {"step": step, "index": batch["index"].tolist()})

    def act(stop: int) -> None:
        from plainloop.run import run

        lives.mute()
        at_step = signalled_at(stop, 0)
        lives.before_updates(lambda step, batch: (look(step, batch), at_step(step))[0])
        run(config, folder)

    for world_size, stop in worlds:
        pids = gang.start(lives.new_meeting(folder), world_size, functools.partial(act, stop))
        assert set(gang.wait(pids)) <= {0, Preempted.code}
    found: dict[int, list[int]] = {}
    for note in folder.parent.glob(f"{folder.name}.seen*"):
        for row in storage.read_lines(note):
            found.setdefault(row["step"], []).extend(row["index"])
    return {step: sorted(samples) for step, samples in found.items()}


def test_another_number_of_ranks_sees_the_same_samples_and_comes_to_the_same_losses(tmp_path: Path) -> None:
    config = checked(*RUN[2:], *VIT)
    alone = seen(config, tmp_path / "alone", [(1, STEPS)])
    through = seen(config, tmp_path / "through", [(1, 3), (2, 12), (1, 20), (4, STEPS)])
    assert alone == through
    assert sorted(alone) == list(range(STEPS))
    for mine, theirs in zip(remains(tmp_path / "alone")["rows"], remains(tmp_path / "through")["rows"], strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert np.isclose(mine[key], theirs[key], rtol=1e-4, atol=1e-6), (mine["step"], key)


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused_with_both_sizes(tmp_path: Path) -> None:
    finish(checked(*RUN, "trainer.duration=1st"), tmp_path / "run")
    words = [f"resume={tmp_path / 'run'}", "trainer.devices=7", "trainer.duration=9ep"]
    train = [sys.executable, str(ROOT / "train.py"), *words]
    refused = subprocess.run(train, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert refused.returncode == BadConfig.code
    assert "does not divide by 7 = 7 (ranks; the run began on 2) x 1" in refused.stderr
    assert "got 120 (global)" in refused.stderr


def test_the_batch_size_of_each_device_is_fixed_at_the_first_start(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith("data.batch_size")]
    config = checked(*words, "++data.batch_size_per_device=60", "trainer.devices=2")
    assert config["data"]["batch_size"] == 120
    assert "batch_size_per_device" not in config["data"]
