"""Kill it anywhere: whatever happens to a run, it ends with the bits of one that nobody touched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.harness.configs import checked
from tests.harness.kill import finish, kill_until_done
from tests.harness.runs import RICH, differences, remains

# Gradient scaling, EMA, dropout, BatchNorm, a drop of the rate, accumulation, early stopping and a best checkpoint.
RUN = (
    *RICH,
    "model.width=6",
    "data.batch_size=128",
    "scheduler=multistep",
    "scheduler.milestones=[2ep,5ep]",
    "trainer.duration=8ep",
    "trainer.accumulate=2",
    "trainer.early_stop.patience=3",
    "trainer.early_stop.min_delta=0.01",
    "trainer.log_every=7",
    "trainer.save_every=4st",
)
# Masks, two losses, an augmentation of both, class weights.
OF_MASKS = (
    *("task=segmentation", "data=digit_scenes", "model=tiny_seg", "augment=segmentation", "model.width=4"),
    *("data.num_train=48", "data.num_val=6", "data.image_size=32", "data.batch_size=12", "task.losses.dice=1.0"),
    *("task.class_weights=[0.3,1,1,1,1,1]", "trainer.clip_norm=1.0", "trainer.ema_decay=0.95"),
    *("trainer.duration=60st", "trainer.accumulate=2", "trainer.log_every=7", "trainer.save_every=4st"),
)
KINDS = {"fp16": "trainer.precision=fp16", "bf16": "trainer.precision=bf16", "fp32": "trainer.precision=fp32"}


def kill(kinds: list[str], kills: int, folder: Path, run: tuple[str, ...] = RUN) -> None:
    draw, done, runs = random.Random(kills), 0, 0
    references: dict[str, Any] = {}
    while done < kills:
        kind = kinds[runs % len(kinds)]
        config = checked(*run, KINDS[kind], f"seed={runs // len(kinds) % 2}")
        name = f"{kind}-{config['seed']}"
        if name not in references:
            seconds = finish(config, folder / name)
            references[name] = (remains(folder / name), seconds)
        reference, seconds = references[name]
        subject = folder / f"run-{runs}"
        done += kill_until_done(config, subject, draw, longest=seconds * 0.6, most=kills - done)
        assert differences(reference, remains(subject)) == [], f"{subject} after {done} kills"
        runs += 1
    print(f"{done} kills over {runs} runs, all exact")


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    kill(["fp32"], 12, tmp_path)


def test_killed_runs_of_masks_end_with_the_same_bits(tmp_path: Path) -> None:
    kill(["fp32"], 4, tmp_path, OF_MASKS)


@pytest.mark.kill
def test_200_kills_and_every_run_is_exact(tmp_path: Path) -> None:
    kill(["fp16", "bf16", "fp32"], 200, tmp_path)
