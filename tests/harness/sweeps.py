"""Sweeps as their files would be after so many jobs, made in milliseconds with what real runs write; and commands."""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.sweep import index
from plainloop.sweep.index import Entry
from plainloop.system import lock
from tests.harness.children import Child
from tests.harness.configs import ROOT

TINY = ("trainer.duration=12st", "trainer.log_every=4", "trainer.eval_every=6st", "trainer.save_every=6st")
DEAD = {"pid": 2**22 - 3, "pid_start": "1"}  # no process has this number


def run(folder: Path, *arguments: str, script: str = "train.py") -> tuple[int, str]:
    """The exit code and the output of a command, in a fork of this process, which has torch imported already."""

    def typed() -> None:
        sys.argv = [str(ROOT / script), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")

    ended = Child(typed, cwd=folder).wait()
    return ended.code, ended.err + ended.out


def status(state: str, **more: Any) -> dict[str, Any]:
    """A status.json. LOST is what was RUNNING and is gone."""
    row = {
        "state": "RUNNING" if state == "LOST" else state,
        "attempt": 1,
        "heartbeat": time.time(),
        **lock.this_process(),
    }
    return row | {"step": 10, "total": 20, "exit_code": 0} | (DEAD if state == "LOST" else {}) | more


def sweep(folder: Path, jobs: Sequence[tuple[Sequence[str], Mapping[str, Any] | None]]) -> Path:
    """One job for each of (overrides, status.json); without a status it has not started."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (overrides, row) in enumerate(jobs):
        entry = Entry(number, tuple(overrides), str(number), f"{number:016x}")
        lines.append(json.dumps({**vars(entry), "overrides": list(overrides)}))
        job = folder / entry.folder
        job.mkdir()
        (job / "config.yaml").write_text(f"seed: {number}\n")
        if row is not None:
            (job / "status.json").write_text(json.dumps(row))
            begun = {"attempt": 1, "started": time.time() - 60, "step": 0}
            (job / "attempts.jsonl").write_text(json.dumps(begun) + "\n")
        if row is not None and row["state"] == "DONE":
            best = {"metric": "val/top1", "value": 0.5 + number / 10000, "step": 20}
            (job / "summary.json").write_text(json.dumps({"best": best, "final": {"val/loss": 1.0}, "steps": 20}))
    (folder / index.FILE).write_text("".join(f"{line}\n" for line in lines))
    return folder


def alive() -> int:
    return os.getpid()
