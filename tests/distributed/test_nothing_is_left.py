"""Run after run after run: no file, no process, no shared memory and no port stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.configs import checked
from tests.distributed import gang, lives
from tests.distributed.test_ways_to_start import rest_of_us


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def runs(count: int, folder: Path) -> None:
    config = checked("model.width=4", "data.batch_size=120", "trainer.duration=1ep", "device=cpu")
    files, rest = open_files(), rest_of_us()
    # Two at once, so that they would clash if they could.
    for number in range(0, count, 2):
        pairs = [lives.begin(config, folder / str(number + other), 2) for other in range(2)]
        for pids in pairs:
            assert gang.wait(pids) == [0, 0]
    assert open_files() == files
    assert rest_of_us()[0] <= rest[0]
    assert rest_of_us()[1] <= rest[1]


def test_some_runs_leave_nothing(tmp_path: Path) -> None:
    runs(4, tmp_path)


@pytest.mark.slow
def test_30_runs_leave_nothing(tmp_path: Path) -> None:
    runs(30, tmp_path)
