"""What differs between the config that a run was started with and the one it is to go on with, and whether it may."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from plainloop.config.nodes import leaves
from plainloop.config.settings import LATER_OPEN_KEYS
from plainloop.config.targets import locate
from plainloop.contracts import Schedule
from plainloop.errors import BadConfig

# Keys that may change on a resume: logging, saving, how the work is spread. Each part names its own, as data.root.
SAFE = (
    *("name", "check", "resume", "resume_step", "plugins*", "report", "published*", "logger.*", "trainer.devices*"),
    *("checkpoint.keep_last", "checkpoint.save_best", "checkpoint.every_minutes"),
    *(
        "trainer.log_every",
        "trainer.save_every",
        "trainer.max_skips",
        "trainer.timeout_s",
        "trainer.tuned.*",
        "trainer.profile_steps",
    ),
    *(
        "threads",
        "device",
        "trainer.accumulate",
    ),  # the same samples, rounded in another order; with BatchNorm other statistics
)
# They follow from which files the data set has; data.allow_changed=true accepts other files.
FILE_FACTS = ("facts.num_train", "facts.num_val", "facts.class_counts", "facts.files_hash")
# Judged by comparing what the schedule says for every step that is done.
DURATION = ("trainer.duration", "scheduler.total_steps")


Schedules = Callable[[], tuple[Schedule, Schedule]]  # the saved and the new one; asked only if the duration differs


@dataclass(frozen=True)
class Difference:
    key: str
    saved: Any
    now: Any


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Every leaf that differs, in the order of its name.

    What earlier code did not save is no difference if it is a fact, or the value that this code had in effect.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    [Difference(key='a.c', saved=2, now=3), Difference(key='d', saved='(absent)', now=4)]
    """
    before, after = dict(leaves(saved)), dict(leaves(now))
    after |= {key: list(value) for key, value in after.items() if isinstance(value, tuple)}
    keys = sorted(before.keys() | after.keys())
    pairs = [Difference(key, before.get(key, "(absent)"), after.get(key, "(absent)")) for key in keys]
    return [pair for pair in pairs if pair.saved != pair.now and not _is_as_before(pair)]


def _is_as_before(pair: Difference) -> bool:
    known = pair.key in LATER_OPEN_KEYS and pair.now == LATER_OPEN_KEYS[pair.key]
    return pair.saved == "(absent)" and (known or pair.key.startswith("facts."))


def check(found: Sequence[Difference], config: Mapping[str, Any], *, step: int, schedules: Schedules) -> None:
    """Refuses what could change the `step` steps that are done. Raises BadConfig with three columns."""
    refused = [pair for pair in found if pair.key not in DURATION and changes_result(pair.key, config)]
    if refused:
        raise BadConfig(
            "this run was started with another config, and the difference could change its result:\n" + table(refused),
            hint="undo the change to go on, or start a new run from its weights: init_from=<run dir>",
        )
    changed = [pair for pair in found if pair.key in DURATION]
    if not changed:
        return
    before, after = schedules()
    for done in range(step):
        if before(done) != after(done):
            raise BadConfig(
                f"another duration would have changed the learning rate of step {done} (x{before(done):.6g} then, "
                f"x{after(done):.6g} now), which is done:\n" + table(changed),
                hint="start a new run from its weights: init_from=<run dir>, or use a schedule that does not depend on "
                "the duration (constant, step, multistep)",
            )


def table(found: Sequence[Difference]) -> str:
    rows = [("key", "saved", "now"), *((pair.key, str(pair.saved), str(pair.now)) for pair in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"  {'  '.join(row)}".rstrip() for row in cells)


def changes_result(key: str, config: Mapping[str, Any]) -> bool:
    """Whether another value there could change the result, as the part that takes it says in `changes_no_result`."""
    group = config.get(key.partition(".")[0])
    target = group.get("_target_") if isinstance(group, Mapping) else None
    return _changes_result(key, target, tuple(config.get("plugins") or ()))


@functools.cache
def _changes_result(key: str, target: str | None, plugins: tuple[str, ...]) -> bool:
    if any(fnmatch(key, pattern) for pattern in SAFE):
        return False
    try:
        part = locate(target, plugins) if target is not None else None
    except (ImportError, ValueError):
        return True
    return not any(fnmatch(key.partition(".")[2], pattern) for pattern in getattr(part, "changes_no_result", ()))
