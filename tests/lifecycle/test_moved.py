"""A run whose folder or lock is moved or removed while it trains stops, says where things are, and spoils nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.journal import Journal
from tests.harness import inject
from tests.harness.children import Child, Ended
from tests.harness.children import wait_for as wait_until
from tests.harness.runs import SMALL, differences, files, remains, start, status, train

TYPED = (*SMALL, "trainer.log_every=1", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    assert train(folder, *TYPED).code == 0
    return remains(folder / "run")


def disturbed(tmp_path: Path, act: Callable[[], object], *more: str) -> Ended:
    """A run that stands still before its seventh step while `act` is done."""
    gate = tmp_path / "gate"
    child = start(tmp_path, *TYPED, *more, prepare=inject.at_step(7, inject.wait_for(gate)))
    wait_until(gate.with_suffix(".here").exists)
    act()
    gate.touch()
    return child.wait()


def test_a_folder_that_is_moved_is_named_and_the_run_goes_on_there(tmp_path: Path, alone: Any) -> None:
    ended = disturbed(tmp_path, lambda: (tmp_path / "run").rename(tmp_path / "moved"))
    assert ended.code == 73
    assert f"while this run trained, its folder run was moved: it is {tmp_path}/moved now" in ended.err
    assert ended.last_line == f"next: python train.py resume={tmp_path}/moved"
    assert not (tmp_path / "run").exists()
    found = status(tmp_path / "moved")
    assert (found["state"], found["reason"]) == ("FAILED", "cannot_write")
    assert train(tmp_path, "resume=moved").code == 0
    assert differences(remains(tmp_path / "moved"), alone) == []


def test_a_folder_that_is_moved_in_the_middle_of_a_save_is_named_too(tmp_path: Path) -> None:
    def prepare() -> None:
        gone = [tmp_path / "moved"]
        inject.before(Checkpoints, "save", lambda *_: gone and (tmp_path / "run").rename(gone.pop()))

    ended = train(tmp_path, *TYPED, prepare=prepare)
    assert ended.code == 73
    assert f"while this run trained, its folder run was moved: it is {tmp_path}/moved now" in ended.err


def test_a_folder_that_is_removed_is_not_made_again(tmp_path: Path) -> None:
    ended = disturbed(tmp_path, lambda: shutil.rmtree(tmp_path / "run"))
    assert ended.code == 73
    assert "while this run trained, its folder run is gone" in ended.err
    assert not (tmp_path / "run").exists()


def test_without_its_lock_a_run_stops_and_the_one_that_took_the_folder_ends_as_if_alone(
    tmp_path: Path, alone: Any
) -> None:
    second: list[Ended] = []

    def act() -> None:
        (tmp_path / "run/run.lock").unlink()
        second.append(train(tmp_path, *TYPED))

    ended = disturbed(tmp_path, act)
    assert (ended.code, second[0].code) == (73, 0), second[0].err
    assert "its folder run has another run.lock now, or none: another process may train there" in ended.err
    assert status(tmp_path / "run")["state"] == "DONE"
    assert differences(remains(tmp_path / "run"), alone) == []


def test_without_the_look_at_the_folder_both_would_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "require_same_folder", lambda self: None)
    ended = disturbed(tmp_path, lambda: (tmp_path / "run/run.lock").unlink())
    assert ended.code == 0


@pytest.mark.slow
def test_ranks_that_the_run_starts_itself_stop_too(tmp_path: Path) -> None:
    child: Child = start(tmp_path, *TYPED, "trainer.devices=2", "trainer.duration=4000st", "device=cpu")
    wait_until(lambda: status(tmp_path / "run").get("step", 0) > 2 or child.has_ended())
    (tmp_path / "run").rename(tmp_path / "moved")
    ended = child.wait()
    assert ended.code == 73, ended.err
    assert f"it is {tmp_path}/moved now" in ended.err
    assert not (tmp_path / "run").exists(), files(tmp_path / "run")
    assert status(tmp_path / "moved")["state"] == "FAILED"
