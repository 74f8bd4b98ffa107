"""A power cut at any moment of saving leaves a folder that gives back the last committed state, or the one being saved.

The model: of a file, what was written before its last fsync is there; of what came after, any prefix or zeros. Of the
folder's entries, what was done before the folder's last fsync is there; of what came after, any subset. Every state
that this allows is made, and the real loader is let loose on it. The idea: Pillai et al., OSDI 2014 (ALICE).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plainloop.errors import Unresumable
from plainloop.run_dir.checkpoint_format import Entry
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.system import storage
from tests.harness.saved import best_of

FOLDER = Path("/disk")
MOST_SUBSETS = 128
PREFIX = 8  # bytes; the step from one prefix to the next


def encode(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode() * 4


def decode(data: bytes) -> dict[str, Any]:
    """Takes anything: it is for the hash, not for the parser, to find what is wrong."""
    text = data[: len(data) // 4].decode("latin1")
    return dict(json.loads(text)) if text.startswith("{") and text.endswith("}") else {"garbage": text}


class Save(NamedTuple):
    begun: int  # length of the log then
    done: int
    state: dict[str, Any]
    best: int | None  # step of the best one after it


def history(disk: Any, make: type[Checkpoints], seed: int) -> list[Save]:
    """Saves with and without a new best, and some that replace a step."""
    draw = random.Random(seed)
    storage.os = disk
    writer = make(FOLDER, keep_last=2 + seed % 2, serialise=encode, parse=decode)
    saves: list[Save] = []
    best, step = None, 0
    for number in range(14):
        step += 1 if number < 2 else draw.choice([0, 1, 1, 1, 7])
        improved, begun = draw.random() < 0.5, len(disk.log)
        state = {"step": step, "number": number}
        writer.save(state, step=step, best=improved, metric="val/top1", value=step / 100)
        best = step if improved else best
        saves.append(Save(begun, len(disk.log), state, best))
    return saves


def folder_states(log: list[tuple[Any, ...]]) -> Iterator[dict[str, int]]:
    """Every set of entries that the folder may have after a power cut: name -> inode."""
    durable: dict[str, int] = {}
    pending: list[tuple[Any, ...]] = []
    for operation in log:
        if operation[0] == "fsync folder":
            apply(durable, pending)
            pending = []
        elif operation[0] in ("link", "rename", "unlink"):
            pending.append(operation)
    subsets: Iterator[Any] = itertools.product((False, True), repeat=len(pending))
    if 2 ** len(pending) > MOST_SUBSETS:
        draw = random.Random(len(log))
        some = [[draw.random() < 0.5 for _ in pending] for _ in range(MOST_SUBSETS)]
        subsets = iter([[True] * len(pending), [False] * len(pending), *some])
    for chosen in subsets:
        names = dict(durable)
        apply(names, [operation for operation, is_there in zip(pending, chosen) if is_there])
        yield names


def apply(names: dict[str, int], operations: list[tuple[Any, ...]]) -> None:
    for kind, *rest in operations:
        if kind == "link":
            names[rest[0]] = rest[1]
        elif kind == "rename":
            names.pop(rest[0], None)
            names[rest[1]] = rest[2]
        else:
            names.pop(rest[0], None)


def contents(log: list[tuple[Any, ...]]) -> dict[int, list[bytes]]:
    """What each inode may hold after a power cut."""
    safe: dict[int, bytes] = {}
    written: dict[int, bytes] = {}
    for kind, *rest in log:
        if kind == "link":
            safe[rest[1]] = written[rest[1]] = b""
        elif kind == "write":
            written[rest[0]] += rest[1]
        elif kind == "fsync":
            safe[rest[0]] = written[rest[0]]
    found = {}
    for inode, whole in written.items():
        known = safe[inode]
        cuts = {whole[:end] for end in range(len(known), len(whole), PREFIX)}
        cuts |= {whole, known + bytes(len(whole) - len(known))}
        found[inode] = sorted(cuts)
    return found


def crash_states(log: list[tuple[Any, ...]]) -> Iterator[dict[str, bytes]]:
    possible = contents(log)
    for names in folder_states(log):
        for data in itertools.product(*(possible[inode] for inode in names.values())):
            yield dict(zip(names, data))


def complaint(load: Callable[[], Checkpoints], last: Save | None, current: Save | None) -> str:
    """What is wrong with what the loader makes of a folder, or ""."""
    checkpoints = load()
    try:
        loaded = checkpoints.newest()
    except Unresumable as error:
        return f"unresumable: {error}" if last else ""
    allowed = [save.state for save in (last, current) if save]
    if loaded is None:
        return "starts from zero" if last else ""
    if loaded.state not in allowed:
        return f"took {loaded.state}, not one of {allowed}"
    best = best_of(load())
    if best not in [save.best if save else None for save in (last, current)]:
        return f"best is {best}"
    again = load()
    again.sweep()
    after = again.newest()
    return "" if after is not None and after.state == loaded.state else "sweeping changed what is loaded"


def examine(
    new_disk: Any, recorder: Any, make: type[Checkpoints], *, seed: int = 0, enough: int | None = None
) -> tuple[int, list[str]]:
    """(number of different states, complaints) over every moment of a history; stops at `enough` complaints."""
    saves = history(recorder, make, seed)
    seen: set[Any] = set()
    complaints: list[str] = []
    for moment in range(len(recorder.log) + 1):
        last = next((save for save in reversed(saves) if save.done <= moment), None)
        current = next((save for save in saves if save.begun < moment < save.done), None)
        for files in crash_states(recorder.log[:moment]):
            key = (last and last.done, current and current.done, frozenset(files.items()))
            if key in seen:
                continue
            seen.add(key)
            storage.os = new_disk(files)
            found = complaint(lambda: make(FOLDER, serialise=encode, parse=decode), last, current)
            complaints += [found] if found else []
            if enough and len(complaints) >= enough:
                return len(seen), complaints
    return len(seen), complaints


def test_no_power_cut_loses_what_was_committed(new_disk: Any) -> None:
    found = [examine(new_disk, new_disk(), Checkpoints, seed=seed) for seed in range(9)]
    assert [complaints for _, complaints in found] == [[]] * len(found)
    assert sum(states for states, _ in found) >= 10_000


class DeletesFirst(Checkpoints):
    """Makes room before it saves."""

    def save(self, state: dict[str, Any], **settings: Any) -> Path:
        for entry in self._entries():
            self._unlink(entry.manifest)
            self._unlink(entry.file)
        return super().save(state, **settings)


class Trusts(Checkpoints):
    """Reads what has the right name."""

    def _read(self, entry: Entry) -> bytes:
        return self._bytes(entry.file)


def without(operation: str, disk: Any) -> Any:
    """A disk on which one kind of fsync does nothing."""
    fsync = disk.fsync

    def selective(descriptor: int) -> None:
        fsync(descriptor)
        if disk.log[-1][0] == operation:
            disk.log.pop()

    disk.fsync = selective
    return disk


@pytest.mark.parametrize(
    ("broken", "dropped", "flagged"),
    [
        (Checkpoints, "fsync", "took|unresumable"),
        (Checkpoints, "fsync folder", "took|starts from zero|unresumable"),
        (DeletesFirst, "", "starts from zero|unresumable"),
        (Trusts, "fsync", "garbage|took"),
    ],
    ids=["files are not synced", "the folder is not synced", "deletes before the commit", "does not verify"],
)
def test_a_broken_protocol_is_found(new_disk: Any, broken: type[Checkpoints], dropped: str, flagged: str) -> None:
    _, complaints = examine(new_disk, without(dropped, new_disk()), broken, enough=1)
    assert len(complaints) == 1
    assert any(word in complaints[0] for word in flagged.split("|"))
