"""Kill it anywhere: whatever happens to a run, it ends with the bits of one that nobody touched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.harness.configs import checked
from tests.harness.kill import finish, kill_until_done
from tests.harness.runs import STATEFUL, TASKS, by_task, differences, remains

# Gradient scaling, EMA, dropout, BatchNorm, a drop of the rate, accumulation, early stopping and a best checkpoint.
RUN = (
    *STATEFUL,
    "scheduler=multistep",
    "scheduler.milestones=[4ep,9ep]",
    "trainer.duration=14ep",
    "trainer.accumulate=2",
    "trainer.early_stop.patience=3",
    "trainer.early_stop.min_delta=0.01",
    "trainer.log_every=7",
    "trainer.save_every=4st",
)
KINDS = {"fp16": "trainer.precision=fp16", "bf16": "trainer.precision=bf16", "fp32": "trainer.precision=fp32"}


def kill(task: str, kinds: list[str], kills: int, folder: Path) -> None:
    draw, done, runs = random.Random(kills), 0, 0
    references: dict[str, Any] = {}
    while done < kills:
        kind = kinds[runs % len(kinds)]
        config = checked(*TASKS[task], *RUN, KINDS[kind], f"seed={runs // len(kinds) % 2}")
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


@by_task
def test_killed_runs_end_with_the_same_bits(task: str, tmp_path: Path) -> None:
    kill(task, ["fp32"], {"classification": 12, "segmentation": 4, "detection": 2}[task], tmp_path)


@pytest.mark.kill
@by_task
def test_200_kills_and_every_run_is_exact(task: str, tmp_path: Path) -> None:
    kill(task, ["fp16", "bf16", "fp32"], 200 if task == "classification" else 40, tmp_path)
