"""Going back to an earlier checkpoint: what came later is put aside, and a kill in between loses nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from plainloop.errors import BadConfig, Unresumable
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.rewind import go_back, require_step
from tests.harness.runs import SMALL, differences, remains, train
from tests.harness.saved import best_of, state
from tests.harness.tensors import equal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with checkpoints of the steps 1, 2 (best then), 3, 4 (best)."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=4)
    for step in (1, 2, 3, 4):
        checkpoints.save(state(step), step=step, best=step % 2 == 0, metric="val/top1", value=step / 10)
    for name in ("metrics.jsonl", "summary.json", "best.safetensors", "last.safetensors"):
        (tmp_path / name).write_text(name)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/id.json").write_text("{}")
    return tmp_path


def contents(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "best.json"}


def test_a_chosen_step_becomes_the_newest_and_what_came_later_is_kept_aside(run: Path) -> None:
    before = contents(run)
    discarded = go_back(run, Checkpoints(run / "checkpoints"), 2)
    checkpoints = Checkpoints(run / "checkpoints", keep_last=4)
    loaded = checkpoints.newest()
    assert loaded is not None
    assert equal(loaded.state, state(2))
    assert (list(checkpoints.steps()), best_of(checkpoints)) == ([1, 2], 2)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "discarded", "metrics.jsonl"]
    assert discarded is not None
    assert list(Checkpoints(discarded / "checkpoints").steps()) == [3, 4]
    assert contents(run) == before
    assert go_back(run, checkpoints, 2) is None


@pytest.mark.parametrize("linked", [True, False])
def test_killed_at_any_operation_nothing_is_lost_and_the_same_command_completes_it(
    run: Path, tmp_path_factory: pytest.TempPathFactory, linked: bool
) -> None:
    before, kills = contents(run), 0
    for n in range(100):
        copy = tmp_path_factory.mktemp("killed") / "run"
        shutil.copytree(run, copy)
        with pytest.MonkeyPatch.context() as patch:
            killed = dies_at(patch, n, linked=linked)
            try:
                go_back(copy, Checkpoints(copy / "checkpoints"), 2)
            except KeyboardInterrupt:
                kills += 1
        assert contents(copy) == before
        if n % 2:  # somebody types the plain command first: it sweeps the folder
            Checkpoints(copy / "checkpoints", keep_last=4).sweep()
            assert contents(copy) == before
        go_back(copy, Checkpoints(copy / "checkpoints"), 2)
        assert list(Checkpoints(copy / "checkpoints").steps()) == [1, 2]
        assert contents(copy) == before
        if not killed:
            break
    assert kills > 15


def dies_at(patch: pytest.MonkeyPatch, n: int, *, linked: bool) -> list[int]:
    """From the n-th link, copy or removal on, nothing is done any more; gives [n] once that was reached."""
    count, died = 0, []

    def counted(real: Any) -> Any:
        def operation(*arguments: Any, **settings: Any) -> Any:
            nonlocal count
            count += 1
            if count > n:
                died[:] = [n]
                raise KeyboardInterrupt
            if real is os.link and not linked:
                raise OSError("no links here")
            return real(*arguments, **settings)

        return operation

    for kind, name in ((os, "link"), (shutil, "copyfile"), (shutil, "rmtree"), (Path, "unlink")):
        patch.setattr(kind, name, counted(getattr(kind, name)))
    return died


def test_a_step_without_checkpoint_is_refused_with_those_that_there_are(run: Path) -> None:
    checkpoints = Checkpoints(run / "checkpoints")
    with pytest.raises(BadConfig, match=r"resume_step=6: .* has none of that step; .* steps 1, 2, 3, 4") as error:
        require_step(checkpoints, 6)
    assert error.value.hint == "type resume_step=4"
    path = run / "checkpoints/step_00000003.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Unresumable, match=r"step_00000003\.pt cannot be used: \d+ bytes instead of"):
        require_step(checkpoints, 3)


def test_removing_before_everything_is_put_aside_would_be_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    monkeypatch.setattr("plainloop.run_dir.rewind._copy", lambda path, copy: None)
    go_back(run, Checkpoints(run / "checkpoints"), 2)
    assert contents(run) != before


def test_after_going_back_the_run_ends_with_the_same_bits_and_rows(tmp_path: Path) -> None:
    words = (*SMALL, "hydra.run.dir=run", "trainer.save_every=5st", "checkpoint.keep_last=9")
    assert train(tmp_path, *words).code == 0
    before = remains(tmp_path / "run")
    ended = train(tmp_path, "resume=run", "resume_step=5")
    assert ended.code == 0 and "going back to step 5; what came later is in run/discarded/1" in ended.out
    assert differences(before, remains(tmp_path / "run")) == []
