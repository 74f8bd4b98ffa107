"""Which job a config is: the same one as before, or a new one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from plainloop.config import compare
from plainloop.sweep import index
from plainloop.sweep.index import Entry, config_hash
from plainloop.sweep.job import Job
from plainloop.sweep.numbering import recognize
from tests.harness.configs import checked

# These change no result, but were in the hashes from the beginning.
EARLIER = ("data.device", "data.download", "device", "trainer.accumulate")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return checked("optimizer=sgd")


def changed(config: dict[str, Any], key: str) -> dict[str, Any]:
    other = copy.deepcopy(config)
    node = other
    *parents, last = key.split(".")
    for part in parents:
        node = node[part]
    node[last] = "something else"
    return other


def test_what_can_change_the_result_makes_another_job_and_nothing_else_does(config: dict[str, Any]) -> None:
    keys = [pair.key for pair in compare.differences({}, config) if not pair.key.startswith("facts")]
    assert len(keys) > 40
    for key in keys:
        counts = compare.changes_result(key, config) or key in EARLIER
        harmless = key in ("resume", "check") or not counts
        assert (config_hash(changed(config, key)) == config_hash(config)) == harmless, key


def job(number: int, *overrides: str, hash: str = "") -> Job:
    return Job(number, overrides, Path(), str(number), {}, b"", hash or " ".join(sorted(overrides)))


def entries(*jobs: Job) -> list[Entry]:
    return [Entry(one.number, one.overrides, str(one.number), one.hash) for one in jobs]


def test_values_added_before_and_between_leave_known_jobs_where_they_are() -> None:
    known = entries(job(0, "seed=1"), job(1, "seed=3"))
    found = recognize(known, [job(0, "seed=0"), job(1, "seed=1"), job(2, "seed=2"), job(3, "seed=3")])
    assert [entry and entry.number for entry in found] == [None, 0, None, 1]


def test_jobs_that_differ_in_nothing_that_matters_are_told_apart_by_what_was_typed() -> None:
    known = entries(job(0, "workers=0", hash="same"), job(1, "workers=2", hash="same"))
    found = recognize(known, [job(n, f"workers={w}", hash="same") for n, w in enumerate((2, 4, 0))])
    assert [entry and entry.number for entry in found] == [1, None, 0]


def test_the_same_config_typed_in_another_way_is_the_same_job() -> None:
    known = entries(job(0, "model=tiny", "seed=1", hash="h"))
    found = recognize(known, [job(0, "seed=1", hash="h")])
    assert found == known


def test_by_what_was_typed_alone_a_config_that_has_changed_would_be_taken_for_done() -> None:
    known = entries(job(0, "experiment=a", hash="as the file was"))
    (found,) = recognize(known, [job(0, "experiment=a", hash="as the file is now")])
    assert found is None
    by_text = {entry.overrides: entry for entry in known}
    assert by_text.get(("experiment=a",)) is not None  # the broken variant


def test_what_is_written_is_read_and_a_torn_or_hostile_line_is_not(tmp_path: Path) -> None:
    written = entries(job(0, "seed=0"), job(1, "seed=1"))
    index.write(tmp_path, written)
    hostile = {"number": 2, "overrides": [], "folder": "../../etc", "hash": "x"}
    with (tmp_path / index.FILE).open("a") as file:
        file.write(json.dumps(hostile) + "\n" + '{"number": 3, "overri')
    assert index.read(tmp_path) == written
