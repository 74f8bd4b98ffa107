"""Kill any rank at any moment: the run goes on from its checkpoint, and ends with the bits of one left alone."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from plainloop.distributed import failures
from plainloop.distributed.failures import Failure
from plainloop.errors import LostPeer, NoProgress
from tests.harness import ranks
from tests.harness.children import Child
from tests.harness.configs import checked
from tests.harness.runs import STATEFUL, TASKS, by_task, differences, remains

RANKS = 2
RUN = (
    *STATEFUL,
    "trainer.duration=12ep",
    "trainer.accumulate=2",
    "trainer.log_every=7",
    "trainer.save_every=3st",
    "device=cpu",
)


def finish(config: dict[str, Any], folder: Path) -> float:
    """Lets the run go on undisturbed; seconds."""
    started = time.monotonic()
    codes = [NoProgress.code]
    while NoProgress.code in codes:  # after three deaths in a row without a new checkpoint it says so once
        codes = ranks.wait(ranks.start_run(config, folder, RANKS))
    assert codes == [0] * RANKS
    return time.monotonic() - started


def kill_after(seconds: float, children: list[Child], rank: int, meeting: Path) -> None:
    """Kills a rank, if none has ended by then."""
    until = time.monotonic() + seconds
    children[rank].until(lambda: time.monotonic() > until or any(child.has_ended() for child in children))
    if not any(child.has_ended() for child in children):
        children[rank].kill(signal.SIGKILL)
        # As the launcher does, which sees it at once: the other need not wait for what the killed one would write.
        failures.write(meeting, Failure(rank, "killed by SIGKILL", LostPeer.code, LostPeer.reason, time=time.time()))


def kill(task: str, kills: int, folder: Path) -> None:
    rng, done, runs, hit = random.Random(kills), 0, 0, [0] * RANKS
    config = checked(*TASKS[task], *RUN)
    seconds = finish(config, folder / "untouched")
    reference = remains(folder / "untouched")
    while done < kills:
        subject = folder / f"run-{runs}"
        while done < kills:
            meeting = ranks.new_meeting(subject)
            children = ranks.start_run(config, subject, RANKS, meeting=meeting)
            kill_after(rng.uniform(0.05, seconds * 0.7), children, rng.randrange(RANKS), meeting)
            codes = ranks.wait(children)
            if codes == [0] * RANKS:
                break  # it was quicker
            assert set(codes) <= {-9, 0, LostPeer.code, NoProgress.code}, codes
            if -9 in codes:
                hit[codes.index(-9)] += 1
                done += 1
        finish(config, subject)
        assert differences(reference, remains(subject)) == [], f"{subject} after {done} kills"
        runs += 1
        shutil.rmtree(subject)
    print(f"{done} kills ({' + '.join(map(str, hit))} of ranks 0 and 1) over {runs} runs, all exact")


@by_task
def test_runs_with_a_killed_rank_end_with_the_same_bits(task: str, tmp_path: Path) -> None:
    kill(task, {"classification": 4, "segmentation": 2, "detection": 1}[task], tmp_path)


@pytest.mark.kill
@by_task
def test_50_kills_of_a_random_rank_and_every_run_is_exact(task: str, tmp_path: Path) -> None:
    kill(task, 50 if task == "classification" else 10, tmp_path)
