"""What lies in a folder of somebody else's is neither followed nor believed, and each problem has one message."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from plainloop.errors import BadData, CannotWrite
from plainloop.loggers.csv import Csv
from plainloop.loggers.jsonl import Jsonl
from plainloop.run_dir.status import read_status
from plainloop.system import lock, storage
from plainloop.system.folders import require_plain_folder

WRITERS: dict[str, Callable[[Path], object]] = {
    "run.lock": lambda run: lock.holding(run).__enter__(),
    "attempts.jsonl": lambda run: storage.append_line(run / "attempts.jsonl", {"attempt": 1}),
    "metrics.jsonl": lambda run: Jsonl().start(run, {}, 0),
    "metrics.csv": lambda run: Csv().start(run, {}, 0),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_file_is_written_through_a_link(name: str, tmp_path: Path) -> None:
    run, canary = tmp_path / "run", tmp_path / "canary"
    run.mkdir()
    canary.write_text('{"step": 1}\n')
    (run / name).symlink_to(canary)
    with pytest.raises((CannotWrite, BadData), match=f"{name}.*: it is a symbolic link"):
        WRITERS[name](run)
    assert canary.read_text() == '{"step": 1}\n'


def test_a_file_that_is_written_whole_replaces_a_link(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "status.json"
    canary.write_text("{}")
    path.symlink_to(canary)
    storage.write_json(path, {"state": "DONE"})
    assert not path.is_symlink() and canary.read_text() == "{}"


def test_a_folder_that_leads_out_of_the_run_is_refused_and_one_that_stays_inside_is_not(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    (run / "sub").mkdir(parents=True)
    other.mkdir()
    (run / "inside").symlink_to("sub")
    require_plain_folder(run)
    (tmp_path / "elsewhere").symlink_to(run)
    require_plain_folder(tmp_path / "elsewhere")  # the folder itself may be one that the user has linked
    (run / "checkpoints").symlink_to(other)
    with pytest.raises(CannotWrite, match=rf"checkpoints in it is a link that leads out of it, to {other}"):
        require_plain_folder(run)
    (run / "checkpoints").unlink()
    os.mkfifo(run / "train.log")
    with pytest.raises(CannotWrite, match=r"train\.log in it is neither a file nor a folder"):
        require_plain_folder(run)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


HOSTILE: dict[str, tuple[str, object, str]] = {
    "a pipe": ("status.json", fifo, "it is no regular file"),
    "a link": ("status.json", lambda path: path.symlink_to("/dev/null"), "it is a symbolic link"),
    "a terabyte": ("status.json", huge, "larger than 16.0 MB"),
    "a list": ("status.json", {"state": []}, "state is [], expected one of PENDING"),
    "an escape": ("status.json", {"state": "\x1b[2J"}, r"state is '\x1b[2J', expected one of"),
    "a word": ("status.json", {"state": "RUNNING", "pid": "abc"}, "pid is 'abc', expected int"),
    "an infinity": ("status.json", b'{"state": "DONE", "step": 1e400}', "step is inf"),
    "a giant": ("status.json", {"state": "RUNNING", "heartbeat": 10**400}, "heartbeat is 1000"),
    "no number": ("attempts.jsonl", {"state": "FAILED"}, "attempt is missing"),
    "an object": ("attempts.jsonl", {"attempt": {}}, "attempt is {}, expected int"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_no_run_has_written_is_named_with_what_is_wrong_in_it(case: str, tmp_path: Path) -> None:
    name, content, message = HOSTILE[case]
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode() + b"\n")
    with pytest.raises(BadData) as error:
        read_status(tmp_path)
    assert str(error.value).startswith(f"{path} was not written by a run: ") and message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"state": "DONE"', b"\xff\xfe\x00", b"9" * 5000, b"[]"])
def test_a_status_that_is_torn_counts_as_missing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path).state == "PENDING"
