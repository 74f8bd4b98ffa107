"""A disk that is really full: a small tmpfs that only the test's own processes see."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.status import read_status
from tests.harness import inject
from tests.harness.children import Ended
from tests.harness.disks import Disk, disk
from tests.harness.runs import SMALL, differences, lines, remains, train

RUN = (*SMALL, "hydra.run.dir=run")


def train_on(disk: Disk, outside: Path, prepare: Callable[[], Any] = lambda: None) -> Ended:
    def enter_and_prepare() -> None:
        disk.enter()
        os.chdir(disk.folder)
        prepare()

    return train(outside, *RUN, prepare=enter_and_prepare)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    with disk(tmp_path / "disk", size="4m") as made:
        yield made


def fill() -> None:
    with open("ballast", "wb", buffering=0) as ballast:
        for size in (4096, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def empty() -> None:
    os.unlink("ballast")


def test_what_cannot_be_saved_is_saved_later(
    small_disk: Disk, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    def full_for_a_while() -> None:
        inject.at_step(6, fill)()
        inject.at_step(9, empty)()

    ended = train_on(small_disk, tmp_path, full_for_a_while)
    assert ended.code == 0, ended.err
    said = ended.out + ended.err
    assert "disk full" in said and "needed, 0 bytes free" in said and "training goes on" in said
    run = small_disk.seen / "run"
    assert [row["step"] for row in lines(run / "events.jsonl") if row["kind"] == "save_failed"] in ([6, 8], [])
    assert [name for name in differences(undisturbed(), remains(run)) if name != "rows"] == []


def test_what_must_be_saved_ends_the_run_and_the_same_command_goes_on_when_there_is_room(
    small_disk: Disk, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    ended = train_on(small_disk, tmp_path, inject.at_step(8, fill))
    run = small_disk.seen / "run"
    told = read_status(run)
    assert (ended.code, told.state, told.reason) == (73, "FAILED", "cannot_write"), ended.err
    assert "disk full" in ended.err and "next: make room in" in ended.err
    before = Checkpoints(run / "checkpoints").newest()
    assert before is not None and before.step == 6
    assert not list(run.rglob("*.tmp"))
    (small_disk.seen / "ballast").unlink()
    again = train_on(small_disk, tmp_path)
    assert again.code == 0, again.err
    assert differences(undisturbed(), remains(run)) == []
