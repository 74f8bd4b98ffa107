"""Attempts that were stopped where they began are counted; what went a step on is not."""

import json
from pathlib import Path

import pytest

from plainloop.journal import ATTEMPTS
from plainloop.slurm.leave import in_vain


def attempts(folder: Path, *spans: tuple[int, int, str]) -> Path:
    rows = []
    for number, (begun, ended, state) in enumerate(spans, start=1):
        rows += [{"attempt": number, "started": number, "step": begun}]
        rows += [{"attempt": number, "ended": number, "state": state, "reason": "", "step": ended}]
    (folder / "attempts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ([], 0),
        ([(0, 0, "PREEMPTED")], 1),
        ([(20, 20, "PREEMPTED")] * 3, 3),
        ([(0, 20, "PREEMPTED"), (20, 20, "PREEMPTED"), (20, 20, "PREEMPTED")], 2),
        ([(20, 20, "PREEMPTED"), (20, 20, "PREEMPTED"), (20, 21, "PREEMPTED")], 0),
        ([(20, 20, "PREEMPTED"), (20, 20, "FAILED"), (20, 20, "PREEMPTED")], 1),
    ],
)
def test_only_the_latest_attempts_in_a_row_that_got_nowhere_count(
    tmp_path: Path, spans: list[tuple[int, int, str]], count: int
) -> None:
    assert in_vain(attempts(tmp_path, *spans)) == count


def test_the_third_in_vain_is_the_last() -> None:
    assert ATTEMPTS == 3
