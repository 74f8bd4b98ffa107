"""What a run writes about itself while it runs: its lock, its attempts, its heartbeat, notable events.

`run.lock` says who trains here, `attempts.jsonl` has a line for each start and each end, `events.jsonl` one for
whatever was notable, and `status.json` (status.py) is the present. No torch here.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plainloop.errors import BadConfig, CannotWrite, NoProgress, Preempted, RunError
from plainloop.run_dir.status import KINDS, State, command_to_continue, read_attempts, write_end
from plainloop.system import lock, storage
from plainloop.system.secrets import redact, redact_tree

ATTEMPTS = 3  # in a row without a newer checkpoint, until the run gives up
HEARTBEAT_S = 1.0  # a heartbeat costs two fsyncs
INTERRUPTED = 130  # 128 + SIGINT, as shells count it

log = logging.getLogger("plainloop")


@contextmanager
def attempt(folder: Path, plugins: Sequence[str] = ()) -> Iterator[Journal]:
    """Holds the run's lock for the time of the block and writes down how it ended. Rank 0 only.

    Raises Locked when another process trains in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, plugins=plugins)
    again = command_to_continue(folder, plugins=plugins)
    with journal.locked():
        try:
            try:
                yield journal
            except CannotWrite:
                journal.require_same_folder()  # or the folder was moved in the middle of a save
                raise
        except Preempted as stop:
            journal.end("PREEMPTED", reason=stop.reason, hint=again, exit_code=stop.code)
            raise
        except RunError as error:
            if isinstance(error, BadConfig) and journal.restore_previous_status():
                raise
            hint = error.hint or str(error).splitlines()[0]
            journal.end("FAILED", reason=error.reason, message=str(error), hint=hint, exit_code=error.code)
            raise
        except KeyboardInterrupt:
            journal.end("CANCELLED", reason="interrupted", hint=again, exit_code=INTERRUPTED)
            raise
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            journal.end("FAILED", reason="internal", message=message, hint=message, exit_code=RunError.code)
            raise
        journal.end("DONE", **journal.why_done)


@contextmanager
def end_in_log_file(folder: Path, plugins: Sequence[str] = ()) -> Iterator[None]:
    """Adds to train.log what ends the block; on the screen, the command shows it in its own way."""
    again = command_to_continue(folder, plugins=plugins)
    try:
        yield
    except (Preempted, KeyboardInterrupt) as stop:
        _log_to_file(logging.INFO, f"{stop or 'interrupted'}; to continue:\n{again}")
        raise
    except RunError as error:
        _log_to_file(logging.ERROR, f"{error}\nnext: {error.hint}" if error.hint else str(error))
        raise
    except BaseException as error:
        _log_to_file(logging.ERROR, "".join(traceback.format_exception(error)).rstrip())
        raise


def _log_to_file(level: int, text: str) -> None:
    record = log.makeRecord(log.name, level, __file__, 0, redact(text), (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


class Journal:
    """The writer of these files. Used by rank 0 alone.

    Args:
        folder: the run directory.
        plugins: packages that the config names, for the command that continues the run.
        flock: what tests replace.
    """

    def __init__(
        self, folder: Path, *, plugins: Sequence[str] = (), flock: Callable[[int, int], None] = fcntl.flock
    ) -> None:
        self.folder = folder
        self.why_done = {"reason": "", "message": ""}  # of a run that ends before its last step
        self._plugins = plugins
        self._flock = flock
        self._row: dict[str, Any] = {}
        self._last_heartbeat = -HEARTBEAT_S
        self._warned = False
        self._before: dict[str, Any] = {}
        self._begun = False
        self._held: int | None = None  # the open run.lock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run's lock; from here on the status is RUNNING. Raises Locked and CannotWrite."""
        storage.make_folder(self.folder)
        _remove_write_permission_of_others(self.folder)
        with lock.holding(self.folder, flock=self._flock) as self._held:
            for unfinished in self.folder.glob(".*.tmp"):
                unfinished.unlink(missing_ok=True)
            before = self._before = storage.read_json(self.folder / "status.json", KINDS) or {}
            rows = read_attempts(self.folder)
            self._row = {key: before[key] for key in ("step", "total", "checkpoint") if key in before}
            self._row |= {"state": "RUNNING", "reason": "starting", "message": "", "hint": "", "exit_code": None}
            self._row |= {"plugins": ",".join(self._plugins), **lock.this_process()}
            self._row["attempt"] = max((row["attempt"] for row in rows), default=0) + 1
            self._write_status()
            yield

    def begin(self, step: int, total: int = 0) -> int:
        """Writes down the start of an attempt at the saved step `step`; its number, from 1. Called inside `locked`.

        Raises NoProgress when the last three attempts in a row neither left a newer checkpoint nor were asked to
        stop. After that error, the next start has three attempts again.
        """
        rows = read_attempts(self.folder)
        attempt = int(self._row["attempt"])
        start = {"attempt": attempt, "started": time.time(), "step": step, **lock.this_process()}
        start |= {"command": redact(shlex.join(sys.argv))}
        storage.append_line(self.folder / "attempts.jsonl", start)
        self._row |= {"reason": "", "step": step, "total": total}
        self._write_status()
        self._begun = True
        failed = _attempts_without_progress(rows, step)
        if len(failed) >= ATTEMPTS:
            raise NoProgress(
                f"{len(failed)} attempts in a row ended without getting past step {step}: " + ", ".join(failed),
                hint="look at train.log, mend the cause and start again: that gives three more attempts",
            )
        return attempt

    def restore_previous_status(self) -> bool:
        """Undoes `locked` for a start that has changed nothing yet; whether there was a status to restore."""
        if self._begun or not self._before:
            return False
        storage.write_json(self.folder / "status.json", self._before)
        return True

    def running(self, step: int, total: int, *, checkpoint: str = "") -> None:
        """A heartbeat. The loop itself calls it, so a loop that hangs has none. A full disk only warns."""
        if not checkpoint and time.monotonic() - self._last_heartbeat < HEARTBEAT_S:
            return
        self._row |= {"step": step, "total": total}
        if checkpoint:
            self._row["checkpoint"] = checkpoint
        lock.renew(self.folder)
        try:
            self._write_status()
            self._warned = False
        except CannotWrite as error:
            if not self._warned:
                log.warning("no heartbeat in status.json: %s", error)
            self._warned = True

    def require_same_folder(self) -> None:
        """Called before anything is written while the run trains. Raises CannotWrite where the folder was moved, or
        its lock was: another process may use that path now."""
        now = self._place()
        if now == self.folder:
            return
        what, hint = "is gone", "start the run again"
        if now is not None:
            what, hint = f"was moved: it is {now} now", command_to_continue(now, plugins=self._plugins)
        elif self.folder.is_dir():
            what = "has another run.lock now, or none: another process may train there"
            hint = f"wait for it if there is one, then: {command_to_continue(self.folder, plugins=self._plugins)}"
        raise CannotWrite(f"while this run trained, its folder {self.folder} {what}", hint=hint)

    def _place(self) -> Path | None:
        return self.folder if self._held is None else lock.place(self.folder, self._held)

    def event(self, kind: str, **values: Any) -> None:
        """Adds a line to events.jsonl; where that fails it only warns."""
        try:
            row = {"time": time.time(), "kind": kind, **redact_tree(values)}
            storage.append_line(self.folder / "events.jsonl", row)
        except CannotWrite as error:
            log.warning("event %s %s is not on disk: %s", kind, values, error)

    def end(self, state: State, *, reason: str, **words: Any) -> None:
        """Writes how this attempt ended, where the folder is now; `words` are those of `write_end`. Raises nothing."""
        if folder := self._place():
            write_end(folder, state, reason=reason, row=self._row, **words)

    def _write_status(self) -> None:
        self._last_heartbeat = time.monotonic()
        self._row["heartbeat"] = time.time()
        storage.write_json(self.folder / "status.json", self._row)


def _attempts_without_progress(rows: list[dict[str, Any]], step: int) -> list[str]:
    """The latest attempts in a row that died by themselves and left no newer checkpoint, oldest first."""
    starts = [row for row in rows if "started" in row]
    ends = {row["attempt"]: row for row in rows if "ended" in row}
    found: list[str] = []
    saved = step
    for start in reversed(starts):
        end = ends.get(start["attempt"], {"state": "LOST", "reason": "killed"})
        was_asked = end["state"] in ("PREEMPTED", "CANCELLED", "DONE")
        if was_asked or end["reason"] == NoProgress.reason or saved != start["step"]:  # newer, or gone back
            break
        found.insert(0, f"attempt {start['attempt']} {end['reason'] or end['state']}")
        saved = start["step"]
    return found


def _remove_write_permission_of_others(folder: Path) -> None:
    """A umask of 0 lets everybody write here: files that others can write must not be unpickled."""
    with contextlib.suppress(OSError):
        mode = folder.stat().st_mode
        if mode & 0o022 and folder.stat().st_uid == os.getuid():
            folder.chmod(mode & ~0o022)
