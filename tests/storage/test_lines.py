"""Lines of JSON outlive the process that writes them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from plainloop.system import storage
from tests.harness.children import Child


def test_a_torn_last_line_is_cut_off_by_the_next_writer_and_no_earlier_one_is_lost(folder: Path) -> None:
    path = folder / "events.jsonl"
    whole = [{"kind": f"event {number}"} for number in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in whole).encode()
    for end in range(len(text) + 1):
        path.write_bytes(text[:end])
        complete = [row for row in whole if json.dumps(row) + "\n" in text[:end].decode()]
        before = storage.read_lines(path)
        storage.append_line(path, {"kind": "new"})
        after = [json.loads(line) for line in path.read_text().splitlines()]
        assert before[: len(complete)] == complete
        assert after == [*before, {"kind": "new"}]


def test_no_line_is_lost_in_kills_at_any_time(folder: Path) -> None:
    """200 writers, each killed in the middle of writing as fast as it can."""
    path = folder / "events.jsonl"

    def writer(told: int) -> None:
        for number in range(10**6):
            storage.append_line(path, {"kind": "x" * (number % 50), "number": number})
            os.write(told, b".")

    known = 0
    for kill in range(200):
        heard, told = os.pipe()
        child = Child(lambda told=told: writer(told))
        os.close(told)
        for _ in range(1 + kill % 4):
            known += len(os.read(heard, 1))
        child.kill(signal.SIGKILL)
        child.wait()
        while more := os.read(heard, 4096):
            known += len(more)
        os.close(heard)
    lines = path.read_bytes().split(b"\n")
    assert known <= len(storage.read_lines(path)) <= known + 200
    assert all(json.loads(line) for line in lines[:-1])


def test_without_repair_a_torn_line_would_spoil_the_next(folder: Path) -> None:
    path = folder / "events.jsonl"
    path.write_text('{"kind": "whole"}\n{"kin')
    with path.open("a") as file:
        file.write('{"kind": "new"}\n')
    assert storage.read_lines(path) == [{"kind": "whole"}]
