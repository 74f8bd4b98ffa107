"""Run directories of earlier code go on.

`golden_run/` was made once by the code of commit af09a82 and is never made again. In its sweep job 0 is finished; job 1
got a SIGTERM in step 13 of 20, in the middle of an epoch and of a log window. `left_alone` holds what job 1 leaves when
nobody stops it. Names of machines and folders were replaced by hand, nothing else. The jobs have augment=none, because
later code may draw other numbers for an augmentation.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from plainloop.run_dir.environment import environment, fingerprint
from plainloop.run_dir.status import read_status
from tests.harness.children import Ended
from tests.harness.runs import differences, files, lines, train, without_time

GOLDEN = Path(__file__).parent / "golden_run"
SWEEP = (
    *("-m", "model.width=4", "model.drop_rate=0.1", "data.batch_size=240", "trainer.duration=4ep"),
    *("trainer.log_every=3", "trainer.save_every=4st", "optimizer=sgd", "scheduler=cosine_warmup"),
    *("scheduler.warmup=1ep", "augment=none", "trainer.ema_decay=0.99", "trainer.clip_norm=1.0", "seed=0,1"),
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "sweep", tmp_path / "sweep"))


def result(weights: Path, metrics: Path) -> dict[str, Any]:
    rows = without_time(lines(metrics))
    return {"weights": load_file(weights), "steps": [row["step"] for row in rows], "rows": rows}


def went_on(ended: Ended, run: Path) -> None:
    assert ended.code == 0, ended.err
    status = read_status(run)
    assert (status.state, status.step, status.attempt) == ("DONE", 20, 2)
    begun = [row["step"] for row in lines(run / "attempts.jsonl") if "started" in row]
    assert begun == [0, 13]
    left_alone = result(GOLDEN / "left_alone/last.safetensors", GOLDEN / "left_alone/metrics.jsonl")
    today = result(run / "last.safetensors", run / "metrics.jsonl")
    then = json.loads((GOLDEN / "sweep/1/environment.json").read_text())
    same_machine = fingerprint(then) == fingerprint(environment())
    allowed = set() if same_machine else {"weights", "rows"}
    assert {name.split(".")[0] for name in differences(left_alone, today)} <= allowed


def test_a_stopped_run_of_earlier_code_ends_as_if_it_had_been_left_alone(sweep: Path) -> None:
    """To the last bit where torch, the instruction set and the number of threads are those of the golden run."""
    went_on(train(sweep.parent, f"resume={sweep / '1'}"), sweep / "1")


def test_a_finished_run_of_earlier_code_says_so_and_not_a_byte_changes(sweep: Path) -> None:
    before = files(sweep / "0")
    ended = train(sweep.parent, f"resume={sweep / '0'}")
    assert ended.code == 0 and ended.out.startswith("done: ")
    assert files(sweep / "0") == before


def test_a_sweep_of_earlier_code_is_continued_by_the_same_command(sweep: Path) -> None:
    finished = files(sweep / "0")
    ended = train(sweep.parent, *SWEEP, "hydra.sweep.dir=sweep")
    went_on(ended, sweep / "1")
    assert files(sweep / "0") == finished
    assert len(lines(sweep / "jobs.jsonl")) == 2
