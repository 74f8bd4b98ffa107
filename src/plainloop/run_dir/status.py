"""status.json: the state of a run, for every reader at any time; and the command that continues the run. No torch."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from plainloop.errors import BadData, CannotWrite, Locked
from plainloop.system import lock, storage
from plainloop.system.json_rows import wrong_value
from plainloop.system.secrets import redact

# PREEMPTED will be continued. LOST is never written: a reader finds a run that says RUNNING and is not there any more.
State = Literal["PENDING", "RUNNING", "PREEMPTED", "FAILED", "CANCELLED", "DONE", "LOST"]

STALE_S = 600.0  # longer than any evaluation or compilation between two heartbeats

log = logging.getLogger("plainloop")


@dataclass(frozen=True)
class Status:
    state: State
    reason: str = ""  # one word: an error's `reason`, a signal's name, "early_stop", "killed", "restarted", "stale"
    message: str = ""  # one line: what went wrong, or why the run ended early
    hint: str = ""  # what to type next
    plugins: str = ""  # packages of the user's own that the config names, separated by commas
    attempt: int = 0
    step: int = 0  # finished optimizer steps, as of the last heartbeat
    total: int = 0
    checkpoint: str = ""  # the newest one on disk
    heartbeat: float = 0.0  # seconds since 1970
    exit_code: int | None = None
    pid: int = 0
    pid_start: str = ""
    host: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    slurm_job: str = ""


KINDS = get_type_hints(Status)
ATTEMPT_KINDS = {**KINDS, "started": float, "ended": float}  # of a line of attempts.jsonl
SUMMARY_KINDS = {"best": dict | None, "final": dict, "steps": int, "seconds": float, "images_per_s": float | None}
BEST_KINDS = {"metric": str, "value": float | None, "step": int}  # of `best` there, and of checkpoints/best.json


def read_status(folder: Path, *, stale_after: float = STALE_S) -> Status:
    """The state of the run now, from its files alone. Changes nothing. Raises BadData for files that no run writes.

    Args:
        stale_after: seconds without a heartbeat after which a run that may still exist counts as LOST.
    """
    attempts = read_attempts(folder)
    row = storage.read_json(folder / "status.json", KINDS)
    if row is None or "state" not in row:
        row = _row_of_attempts(attempts)
    last = attempts[-1] if attempts else {}
    if row["state"] == "RUNNING" and "ended" in last and last["attempt"] == row.get("attempt"):
        row = {**row, **last}  # the process died between its two last writes
    status = Status(**{key: value for key, value in row.items() if key in KINDS})
    reason = _reason_lost(status, row, folder, stale_after) if status.state == "RUNNING" else ""
    if not reason:
        return status
    plugins = status.plugins.split(",") if status.plugins else []
    hint = status.hint or command_to_continue(folder, plugins=plugins)
    return replace(status, state="LOST", reason=reason, hint=hint)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """The lines of attempts.jsonl: the starts and ends. Raises BadData."""
    return storage.read_lines(folder / "attempts.jsonl", ATTEMPT_KINDS, required=("attempt",))


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json; None where there is none, or a torn one. Raises BadData."""
    path = folder / "summary.json"
    row = storage.read_json(path, SUMMARY_KINDS)
    if row and row.get("best") and (wrong := wrong_value(row["best"], BEST_KINDS, tuple(BEST_KINDS))):
        raise storage.not_a_runs(path, f"in best, {wrong}")
    return row


def write_end(
    folder: Path,
    state: State,
    *,
    reason: str,
    message: str = "",
    hint: str = "",
    exit_code: int = 0,
    row: dict[str, Any] | None = None,
) -> None:
    """Writes how the last attempt ended, to status.json and attempts.jsonl. No other function writes an end.

    Raises nothing: the error that ended the run matters more than one of writing it down.

    Args:
        row: of status.json, as the run itself has it; None reads it.
    """
    row = (storage.read_json(folder / "status.json") or {}) if row is None else row
    row |= {"state": state, "reason": reason, "exit_code": exit_code, "heartbeat": time.time()}
    row |= {"message": redact("".join(message.splitlines()[:1])), "hint": redact(hint), "step": row.get("step", 0)}
    end = {key: row[key] for key in ("attempt", "state", "reason", "step", "exit_code") if key in row}
    try:
        if "attempt" in row:  # else it never started
            storage.append_line(folder / "attempts.jsonl", end | {"ended": time.time()})
    except CannotWrite as error:
        log.warning("the end of this attempt is not in attempts.jsonl: %s", error)
    try:
        storage.write_json(folder / "status.json", row)
    except CannotWrite as error:
        log.warning("status.json was written over in place: %s", error)
        _overwrite(folder / "status.json", row)


def write_end_of_dead_process(folder: Path, *, pid: int, **end: Any) -> None:
    """Writes that the attempt of process `pid` FAILED, if it died before it could; `end` is as for `write_end`."""
    row = storage.read_json(folder / "status.json")
    if row is not None and row.get("state") == "RUNNING" and row.get("pid") == pid:
        with contextlib.suppress(Locked), lock.holding(folder):
            write_end(folder, "FAILED", row=row, **end)


def command_to_continue(
    folder: Path,
    *,
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
    key: str = "resume",
    script: str = "train.py",
) -> str:
    """The line to type to continue a run (or a sweep), quoted for the shell and for Hydra.

    Args:
        plugins: the run's; a user allows them anew at each start.
        overrides: words as they were typed, which come first.
        key: `hydra.sweep.dir` for a sweep.

    >>> print(command_to_continue(Path("a"), plugins=["mine"]), command_to_continue(Path("a=1,b")), sep="; ")
    python train.py resume=a 'plugins=[mine]'; python train.py 'resume="a=1,b"'
    """
    words = [*overrides, f"{key}={quote_for_hydra(str(folder))}"]
    return shlex.join(["python", script, *words, *([f"plugins=[{','.join(plugins)}]"] if plugins else [])])


def quote_for_hydra(value: Any) -> str:
    r"""An override's value that Hydra reads as exactly this one.

    >>> print(*map(quote_for_hydra, ("outputs/a", "a b", "1e3", 'a"b', "${a}", {"a": [None, 1, "x y"]})))
    outputs/a "a b" "1e3" "a\"b" "\${a}" {a:[null,1,"x y"]}
    """
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{quote_for_hydra(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(quote_for_hydra, value))}]"
    if not isinstance(value, str):
        return json.dumps(value, default=str)
    text = value
    is_number = re.fullmatch(r"[-+\d._]*(e[-+\d]*)?|null|true|false|nan|[-+]?inf", text, re.IGNORECASE)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII) and not is_number:
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # for OmegaConf, whose interpolations begin so
    quoted = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'"{quoted}"'


def _reason_lost(status: Status, row: dict[str, Any], folder: Path, stale_after: float) -> str:
    """Why a run that says RUNNING is not, or ""."""
    alive = lock.is_alive(row)
    if alive is False:
        return "restarted" if status.boot_id != lock.this_process()["boot_id"] else "killed"
    if alive and lock.is_held(folder) is False:
        return "killed"  # the process lives, but has left the run and its lock
    # From another machine neither the process nor its lock can be seen for certain.
    return "stale" if time.time() - status.heartbeat > stale_after else ""


def _row_of_attempts(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """A status from attempts.jsonl, where status.json is lost or torn."""
    if not attempts:
        return {"state": "PENDING"}
    last = attempts[-1]
    return {"state": "RUNNING", "heartbeat": last.get("started", 0.0), **last}


def _overwrite(path: Path, row: dict[str, Any]) -> None:
    """Writes into the block that the file has already: a full disk has room for that."""
    os, data = storage.os, (storage.to_json(row, indent=1) + "\n").encode()
    with contextlib.suppress(OSError, BadData):
        descriptor = storage.open_file(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)
