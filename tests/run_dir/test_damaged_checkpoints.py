"""Whatever happens to a file, it is noticed, and the state before is taken; never a start from zero."""

from __future__ import annotations

import io
import json
import logging
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.errors import Unresumable
from plainloop.run_dir.checkpoint_format import BLOCK, state_to_bytes
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness.saved import best_of, names, state, two_saved
from tests.harness.tensors import equal


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    return two_saved(tmp_path / "checkpoints")


def damaged(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Single bit flips at random places."""
    draw = random.Random(0)
    for _ in range(count):
        bit = draw.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)


def truncated(data: bytes) -> Iterator[tuple[str, bytes]]:
    for end in [*range(0, len(data), 4096), len(data) - 1]:
        yield f"cut at {end}", data[:end]
        yield f"zeros from {end}", data[:end] + bytes(len(data) - end)


def falls_back(folder: Path, name: str, damage: bytes, caplog: Any) -> bool:
    """Whether the newest is step 1 after the file was damaged, with a warning that names it; then undoes everything."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / name).write_bytes(damage)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="plainloop"):
        loaded = Checkpoints(folder).newest()
    warned = "checkpoint step_00000002.pt cannot be used:" in caplog.text
    kept = (folder / f"{name}.bad").read_bytes() == damage
    for path in folder.iterdir():
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    return warned and kept and loaded is not None and equal(loaded.state, state(1))


@pytest.mark.parametrize("name", ["step_00000002.pt", "step_00000002.json"])
def test_every_flipped_bit_is_noticed(two: Checkpoints, caplog: Any, name: str) -> None:
    data = (two.folder / name).read_bytes()
    missed = [what for what, damage in damaged(data, 500) if not falls_back(two.folder, name, damage, caplog)]
    assert missed == []


def test_the_parser_alone_would_miss_most_flipped_bits(two: Checkpoints) -> None:
    missed = 0
    for _, damage in damaged((two.folder / "step_00000002.pt").read_bytes(), 100):
        try:
            torch.load(io.BytesIO(damage), weights_only=True)
            missed += 1
        except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError, AttributeError, TypeError, LookupError):
            pass
    assert missed > 50


@pytest.mark.parametrize("name", ["step_00000002.pt", "step_00000002.json"])
def test_every_cut_is_noticed(two: Checkpoints, caplog: Any, name: str) -> None:
    data = (two.folder / name).read_bytes()
    missed = [
        what for what, damage in truncated(data) if damage != data and not falls_back(two.folder, name, damage, caplog)
    ]
    assert missed == []


def test_the_warning_says_where_a_file_is_damaged(tmp_path: Path, caplog: Any) -> None:
    checkpoints = Checkpoints(tmp_path, serialise=lambda state: bytes(BLOCK * 5), parse=json.loads)
    path = checkpoints.save({}, step=1)
    data = bytearray(path.read_bytes())
    data[2 * BLOCK + 7] = data[3 * BLOCK] = 1
    path.write_bytes(data)
    with pytest.raises(Unresumable, match=f"step_00000001.pt: altered within bytes {2 * BLOCK} to {4 * BLOCK - 1}"):
        Checkpoints(tmp_path).newest()


@pytest.mark.parametrize("what", ["files", "manifests", "both"])
def test_all_bad_is_an_error_at_every_start_and_never_a_start_from_zero(two: Checkpoints, what: str) -> None:
    for path in two.folder.glob("step_*"):
        if what == "both" or (path.suffix == ".pt") == (what == "files"):
            path.write_bytes(path.read_bytes()[:-1])
    for _ in range(3):
        with pytest.raises(Unresumable, match=r"(?s)none of the checkpoints.*step_00000002.*: .*step_00000001.*: "):
            Checkpoints(two.folder).newest()
        Checkpoints(two.folder).sweep()


def test_lost_manifests_are_no_start_from_zero_either(two: Checkpoints) -> None:
    for path in two.folder.glob("*.json"):
        path.unlink()
    Checkpoints(two.folder).sweep()
    with pytest.raises(Unresumable, match=r"step_00000001\.pt: its manifest \(\.json\) is gone"):
        Checkpoints(two.folder).newest()


def test_a_file_that_never_got_its_manifest_was_never_there(tmp_path: Path) -> None:
    (tmp_path / "step_00000001.pt").write_bytes(bytes(state_to_bytes(state(1))))
    (tmp_path / ".step_00000002.pt.77.tmp").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    checkpoints.sweep()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "harm",
    ["deleted", "garbled", "stale", "empty", "dangling", "linked to itself", "linked to another", "a manifest's copy"],
)
def test_nothing_depends_on_best_json(two: Checkpoints, harm: str) -> None:
    index = two.folder / "best.json"
    right = json.loads(index.read_text())
    index.unlink()
    if harm in ("garbled", "stale", "empty"):
        index.write_text({"garbled": "{]", "stale": '{"step": 9, "file": "step_00000009.pt"}', "empty": ""}[harm])
    elif harm == "a manifest's copy":
        index.write_bytes((two.folder / "step_00000002.json").read_bytes())
    elif harm != "deleted":
        index.symlink_to({"dangling": "nowhere", "linked to itself": "best.json"}.get(harm, "step_00000002.pt"))
    checkpoints = Checkpoints(two.folder)
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded.step == 2
    assert best_of(checkpoints) == 1
    checkpoints.sweep()
    assert json.loads(index.read_text()) == right
    assert equal(checkpoints.load(two.folder / "step_00000002.pt"), state(2))
