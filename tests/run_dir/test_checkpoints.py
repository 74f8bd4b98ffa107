from __future__ import annotations

import errno
import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plainloop.errors import Unresumable
from plainloop.run_dir.checkpoint_format import describe, manifest_to_bytes, state_to_bytes
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.system import storage
from tests.harness.saved import Payload, best_of, names, state, two_saved
from tests.harness.tensors import equal

GOLDEN = Path(__file__).parents[1] / "storage" / "golden_format_1"


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    return two_saved(tmp_path / "checkpoints")


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "never")
    checkpoints.sweep()
    assert checkpoints.newest() is None
    assert not (tmp_path / "never").exists()


def test_equal_states_give_equal_bytes() -> None:
    again = pickle.loads(pickle.dumps(state(3)))
    assert state_to_bytes(state(3)) == state_to_bytes(again)
    assert state_to_bytes(state(3)) != state_to_bytes(state(4))


def test_tied_tensors_stay_tied_and_parts_do_not_drag_their_whole_along() -> None:
    large = torch.zeros(1 << 20)
    tied = torch.ones(5)
    data = bytes(state_to_bytes({"part": large[:3], "a": tied, "b": tied}))
    assert len(data) < 10_000
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


def test_a_models_own_state_dict_becomes_a_plain_one(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"model": model.state_dict(), "parameter": model.weight}, step=1)
    loaded = checkpoints.newest()
    assert loaded is not None
    assert isinstance(model.state_dict(), OrderedDict)
    assert equal(loaded.state["model"], dict(model.state_dict()))
    assert not loaded.state["parameter"].requires_grad


@pytest.mark.parametrize(
    "value", [np.float64(1), Path("x"), {1}, object(), np.zeros(2)], ids=lambda value: type(value).__name__
)
def test_what_is_neither_tensor_nor_plain_is_refused_by_its_place(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a .*plain Python only"):
        Checkpoints(tmp_path).save({"a": [0, value]}, step=1)
    assert names(tmp_path) == []


@pytest.mark.parametrize("save_best", [True, False])
def test_the_newest_are_kept_and_the_best(tmp_path: Path, save_best: bool) -> None:
    checkpoints = Checkpoints(tmp_path, save_best=save_best)
    for step in range(1, 8):
        checkpoints.save(state(step), step=step, best=step in (1, 3), metric="val/top1", value=step / 10)
    kept = (3, 6, 7) if save_best else (6, 7)
    assert [name for name in names(tmp_path) if name.endswith(".pt")] == [f"step_0000000{n}.pt" for n in kept]
    best = {"step": 3, "metric": "val/top1", "value": 0.3, "file": "step_00000003.pt"}
    assert storage.read_json(tmp_path / "best.json") == (best if save_best else None)


def test_keeping_fewer_than_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.keep_last=1, but .*type checkpoint\.keep_last=2"):
        Checkpoints(tmp_path, keep_last=1)


def test_a_step_saved_again_replaces_the_first_unless_it_is_the_same(two: Checkpoints) -> None:
    inodes = [path.stat().st_ino for path in sorted(two.folder.glob("step_*2.*"))]
    Checkpoints(two.folder).save(state(2), step=2)
    assert [path.stat().st_ino for path in sorted(two.folder.glob("step_*2.*"))] == inodes
    for changed in (20, 21, 22):
        two.save(state(changed), step=2)
        loaded = Checkpoints(two.folder).newest()
        assert loaded is not None
        assert equal(loaded.state, state(changed))
        assert loaded.step == 2
    assert len([name for name in names(two.folder) if name.endswith(".pt")]) == 2


def test_the_best_stays_the_best_when_its_step_is_saved_once_more(two: Checkpoints) -> None:
    two.save(state(3), step=3, best=True, metric="val/top1", value=0.9)
    two.save({**state(3), "done": True}, step=3, final=True)
    assert best_of(two) == 3
    assert two.load(two.folder / "step_00000003.b.pt")["done"]


def test_a_value_that_is_not_finite_is_never_best(two: Checkpoints) -> None:
    two.save(state(3), step=3, best=True, metric="val/top1", value=float("nan"))
    assert best_of(two) == 1


def recommit(folder: Path, step: int, data: bytes, **changes: Any) -> None:
    """Replaces a checkpoint by bytes of one's own, with a manifest that is right for them."""
    row = describe(data, step=step, final=False, best=None)
    (folder / f"step_{step:08d}.pt").write_bytes(data)
    manifest = manifest_to_bytes({**row, "file": f"step_{step:08d}.pt", **changes})
    (folder / f"step_{step:08d}.json").write_bytes(manifest)


@pytest.mark.parametrize("kind", ["torch.save", "pickle", "old torch.save", "not a dict", "zip"])
def test_no_code_in_a_checkpoint_is_run(two: Checkpoints, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "executed"
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump({"a": Payload(marker)}, buffer)
    elif kind == "zip":
        buffer.write(b"PK\x03\x04 and no more")
    elif kind == "not a dict":
        torch.save([1, 2], buffer)
    else:
        torch.save({"a": Payload(marker)}, buffer, _use_new_zipfile_serialization=kind == "torch.save")
    recommit(two.folder, 2, buffer.getvalue())
    loaded = Checkpoints(two.folder).newest()
    assert loaded is not None
    assert loaded.step == 1
    assert not marker.exists()
    if kind == "pickle":  # the payload is one: the same bytes, believed, do run
        pickle.loads(buffer.getvalue())
        assert marker.exists()


def test_a_manifest_cannot_name_a_file_elsewhere(two: Checkpoints) -> None:
    recommit(two.folder, 2, bytes(state_to_bytes(state(2))), file="../../secret.pt")
    loaded = Checkpoints(two.folder).newest()
    assert loaded is not None
    assert loaded.skipped == (("step_00000002.pt", "the manifest names a file of something else"),)


def test_a_later_format_is_refused_with_both_versions_and_left_alone(two: Checkpoints) -> None:
    (two.folder / "step_00000003.json").write_bytes(manifest_to_bytes({"format": 2, "step": 3, "pieces": ["a", "b"]}))
    before = names(two.folder)
    with pytest.raises(Unresumable, match="checkpoint format 2; this version of Plainloop reads format 1"):
        Checkpoints(two.folder).newest()
    Checkpoints(two.folder).sweep()
    assert names(two.folder) == before


def test_a_checkpoint_of_the_first_format_loads_for_ever() -> None:
    """Made once by `Checkpoints(GOLDEN).save(state(2), step=2, ...)` and never made again."""
    checkpoints = Checkpoints(GOLDEN)
    loaded = checkpoints.newest()
    assert loaded is not None
    assert equal(loaded.state, state(2))
    assert best_of(checkpoints) == 2


def test_a_folder_may_be_moved_and_names_no_place(two: Checkpoints, tmp_path: Path) -> None:
    moved = two.folder.rename(tmp_path / "elsewhere")
    found = Checkpoints(moved)
    loaded = found.newest()
    assert loaded is not None
    assert equal(loaded.state, state(2))
    assert best_of(found) == 1
    for path in moved.iterdir():
        assert str(tmp_path.parent).encode() not in path.read_bytes()


def test_bytes_that_the_system_does_not_give_today_keep_their_name(two: Checkpoints, monkeypatch: Any) -> None:
    """As a network file system that stumbles."""

    class Stumbling:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def open(self, path: Path, *arguments: Any) -> int:
            if path.name == "step_00000002.pt":
                raise OSError(errno.EIO, "Input/output error")
            return os.open(path, *arguments)

    before = names(two.folder)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "os", Stumbling())
        today = Checkpoints(two.folder).newest()
    tomorrow = Checkpoints(two.folder).newest()
    assert today is not None
    assert tomorrow is not None
    assert (today.step, tomorrow.step, names(two.folder)) == (1, 2, before)
