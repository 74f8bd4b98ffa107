"""What a run says about itself while it lives, so that it can be read after any death.

`run.lock` says who trains here, `attempts.jsonl` has a line for each start and each end, `events.jsonl` one for
whatever was notable, and `status.json` is the present. LOST is never written: a reader finds it. No torch here.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from plainloop.errors import CannotWrite, Locked, NoProgress
from plainloop.run_dir.status import command_to_continue
from plainloop.system import lock, storage
from plainloop.system.secrets import redact, redact_tree

State = Literal["PENDING", "RUNNING", "PREEMPTED", "FAILED", "CANCELLED", "DONE", "LOST"]

ATTEMPTS = 3  # in a row without a new durable step, until the run gives up
BEAT_S = 1.0  # a heartbeat costs two fsyncs
STALE_S = 600.0  # longer than any evaluation or compilation between two heartbeats

logger = logging.getLogger("plainloop")


@dataclass(frozen=True)
class Status:
    """PREEMPTED will come back; LOST was RUNNING and is not there any more, or does not move."""

    state: State
    reason: str = ""  # one word: an error's `reason`, a signal's name, "killed", "restarted", "stale"
    message: str = ""  # what went wrong, in one line
    hint: str = ""  # what to type next
    plugins: str = ""  # packages of the person's own that the config names, separated by commas
    attempt: int = 0
    step: int = 0  # finished optimizer steps, as of the last heartbeat
    total: int = 0
    checkpoint: str = ""  # the last durable one
    heartbeat: float = 0.0  # seconds since 1970
    exit_code: int | None = None
    pid: int = 0
    pid_start: str = ""
    host: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    slurm_job: str = ""


class Journal:
    """Writes it. Used by rank 0 alone.

    Args:
        folder: the run directory.
        plugins: packages that the config names, for the command that continues the run.
        os, flock: what tests replace.
    """

    def __init__(
        self,
        folder: Path,
        *,
        plugins: Sequence[str] = (),
        os: Any = os,
        flock: Callable[[int, int], None] = fcntl.flock,
    ) -> None:
        self.folder = folder
        self._plugins = ",".join(plugins)
        self._os, self._flock = os, flock
        self._row: dict[str, Any] = {}
        self._beaten = -BEAT_S
        self._silent = False
        self._before: dict[str, Any] = {}
        self._begun = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the run's lock; from here on the status is RUNNING. Raises Locked and CannotWrite."""
        storage.make_folder(self.folder, os=self._os)
        _close_to_others(self.folder)
        with lock.holding(self.folder, flock=self._flock):
            for left in self.folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            before = self._before = storage.read_json(self.folder / "status.json") or {}
            rows = storage.read_lines(self.folder / "attempts.jsonl")
            self._row = {key: before[key] for key in ("step", "total", "checkpoint") if key in before}
            self._row |= {"state": "RUNNING", "reason": "starting", "message": "", "hint": "", "exit_code": None}
            self._row["plugins"] = self._plugins
            self._row |= lock.me()
            self._row["attempt"] = max((row["attempt"] for row in rows), default=0) + 1
            self._write_status()
            yield

    def begin(self, step: int, total: int = 0) -> int:
        """Notes the start of an attempt at the durable step `step`, and gives its number, from 1. Called inside `hold`.

        Raises NoProgress when the last three attempts in a row neither left a newer durable step nor were asked to
        stop. Once that was said, the next start has three attempts again.
        """
        rows = storage.read_lines(self.folder / "attempts.jsonl")
        attempt = int(self._row["attempt"])
        start = {"attempt": attempt, "started": time.time(), "step": step, **lock.me()}
        start |= {"command": redact(shlex.join(sys.argv))}
        storage.append_line(self.folder / "attempts.jsonl", start, os=self._os)
        self._row |= {"reason": "", "step": step, "total": total}
        self._write_status()
        self._begun = True
        vain = _attempts_in_vain(rows, step)
        if len(vain) >= ATTEMPTS:
            raise NoProgress(
                f"{len(vain)} attempts in a row ended without getting past step {step}: " + ", ".join(vain),
                hint="look at train.log, mend the cause and start again: that gives three more attempts",
            )
        return attempt

    def withdraw(self) -> bool:
        """Leaves a run as it was that this start would have changed, and did not: whether that was so."""
        if self._begun or not self._before:
            return False
        storage.write_json(self.folder / "status.json", self._before, os=self._os)
        return True

    def running(self, step: int, total: int, *, checkpoint: str = "") -> None:
        """A heartbeat of the loop itself: a hanging loop has none. A full disk does not end the run, it warns."""
        if not checkpoint and time.monotonic() - self._beaten < BEAT_S:
            return
        self._row |= {"step": step, "total": total}
        if checkpoint:
            self._row["checkpoint"] = checkpoint
        lock.beat(self.folder)
        try:
            self._write_status()
            self._silent = False
        except CannotWrite as error:
            if not self._silent:
                logger.warning("no heartbeat in status.json: %s", error)
            self._silent = True

    def event(self, kind: str, **values: Any) -> None:
        """Adds a line to events.jsonl. Where that fails it warns: an event is never worth a run."""
        try:
            row = {"time": time.time(), "kind": kind, **redact_tree(values)}
            storage.append_line(self.folder / "events.jsonl", row, os=self._os)
        except CannotWrite as error:
            logger.warning("event %s %s is not on disk: %s", kind, values, error)

    def end(
        self,
        state: State,
        *,
        reason: str = "",
        message: str = "",
        hint: str = "",
        step: int | None = None,
        exit_code: int = 0,
    ) -> None:
        """The last words. Raises nothing: what ended the run is worth more than an error of writing it down."""
        self._row |= {"state": state, "reason": reason, "exit_code": exit_code}
        self._row |= {"message": redact("".join(message.splitlines()[:1])), "hint": redact(hint)}
        self._row["step"] = self._row.get("step", 0) if step is None else step
        row = {"attempt": self._row["attempt"], "ended": time.time()}
        row |= {key: self._row[key] for key in ("state", "reason", "step", "exit_code")}
        try:
            storage.append_line(self.folder / "attempts.jsonl", row, os=self._os)
        except CannotWrite as error:
            logger.warning("the end of this attempt is not in attempts.jsonl: %s", error)
        try:
            self._write_status()
        except CannotWrite as error:
            logger.warning("status.json was written over in place: %s", error)
            self._overwrite_status()

    def _write_status(self) -> None:
        self._beaten = time.monotonic()
        self._row["heartbeat"] = time.time()
        storage.write_json(self.folder / "status.json", self._row, os=self._os)

    def _overwrite_status(self) -> None:
        """On a full disk there is room for last words: the block that the file has already."""
        words = (storage.to_json(self._row, indent=1) + "\n").encode()
        with contextlib.suppress(OSError):
            descriptor = os.open(self.folder / "status.json", os.O_WRONLY)
            try:
                os.pwrite(descriptor, words, 0)
                os.ftruncate(descriptor, len(words))
            finally:
                os.close(descriptor)


def read_status(folder: Path, *, stale_after: float = STALE_S) -> Status:
    """What is true of the run now, from its files alone, by anybody, at any time. Changes nothing.

    Args:
        stale_after: seconds without a heartbeat after which a run that may still exist counts as LOST.
    """
    attempts = storage.read_lines(folder / "attempts.jsonl")
    row = storage.read_json(folder / "status.json")
    if row is None or "state" not in row:
        row = _row_of_attempts(attempts)
    if (
        row["state"] == "RUNNING"
        and attempts
        and "ended" in attempts[-1]
        and attempts[-1]["attempt"] == row.get("attempt")
    ):
        row = {**row, **attempts[-1]}  # it ended between its two last writes
    known = {field.name for field in fields(Status)}
    status = Status(**{key: value for key, value in row.items() if key in known})
    reason = _lost(status, row, folder, stale_after) if status.state == "RUNNING" else ""
    if not reason:
        return status
    hint = status.hint or command_to_continue(folder, plugins=status.plugins.split(",") if status.plugins else [])
    return Status(**{**vars(status), "state": "LOST", "reason": reason, "hint": hint})


def end_for_the_dead(folder: Path, *, pid: int, message: str, **words: Any) -> None:
    """Writes the last words of the attempt of process `pid` where it died without any; else does nothing.

    Args:
        words: reason, hint and exit_code, as for `Journal.end`.
    """
    row = storage.read_json(folder / "status.json")
    if row is None or row.get("state") != "RUNNING" or row.get("pid") != pid:
        return
    with contextlib.suppress(Locked), lock.holding(folder):
        journal = Journal(folder)
        journal._row = row
        journal.end("FAILED", message=message, **words)


def _lost(status: Status, row: dict[str, Any], folder: Path, stale_after: float) -> str:
    """Why a run that says RUNNING is not, or ""."""
    alive = lock.is_alive(row)
    if alive is False:
        return "restarted" if status.boot_id != lock.me()["boot_id"] else "killed"
    if alive and lock.is_held(folder) is False:
        return "killed"  # it lives on without its lock: an interpreter that has left the run without a word
    # From another machine neither its process nor a lock can be trusted to be seen.
    return "stale" if time.time() - status.heartbeat > stale_after else ""


def _row_of_attempts(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """A status from the attempts, for when its own file was lost or torn."""
    if not attempts:
        return {"state": "PENDING"}
    last = attempts[-1]
    return {"state": "RUNNING", "heartbeat": last.get("started", 0.0), **last}


def _attempts_in_vain(rows: list[dict[str, Any]], step: int) -> list[str]:
    """The latest attempts in a row that died by themselves and left no newer durable step, oldest first."""
    starts = [row for row in rows if "started" in row]
    ends = {row["attempt"]: row for row in rows if "ended" in row}
    vain: list[str] = []
    durable = step
    for start in reversed(starts):
        end = ends.get(start["attempt"], {"state": "LOST", "reason": "killed"})
        asked = end["state"] in ("PREEMPTED", "CANCELLED", "DONE")
        if asked or end["reason"] == NoProgress.reason or durable > start["step"]:
            break
        vain.insert(0, f"attempt {start['attempt']} {end['reason'] or end['state']}")
        durable = start["step"]
    return vain


def _close_to_others(folder: Path) -> None:
    """Takes the right to write from group and others, which a umask of 0 gives them: pickles of theirs are not ours."""
    with contextlib.suppress(OSError):
        mode = folder.stat().st_mode
        if mode & 0o022 and folder.stat().st_uid == os.getuid():
            folder.chmod(mode & ~0o022)
