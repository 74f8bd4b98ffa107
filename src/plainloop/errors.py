"""What ends a run, each with the exit code that it has for shells and schedulers.

Codes follow sysexits where one fits: 64 configuration, 65 data, 66 nothing to resume from, 69 another process trains
here, 70 anything unforeseen, 71 numbers, 72 no progress, 73 cannot write, 75 stopped and to be continued, 76 another
rank.
"""

from __future__ import annotations

from pathlib import Path


def printable(text: str) -> str:
    """Without control characters, which could repaint the screen."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def counted(number: int, what: str) -> str:
    """
    >>> counted(1, "bad row"), counted(1200, "bad row")
    ('1 bad row', '1,200 bad rows')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class RunError(Exception):
    """A failure with one clear message for the person who started the run. `hint` is what to type next."""

    code = 70
    reason = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__("\n".join(map(printable, message.split("\n"))))
        self.hint = printable(hint)


class BadConfig(RunError):
    code, reason = 64, "config"


class BadData(RunError):
    code, reason = 65, "data"


class Unresumable(RunError):
    """There are checkpoints, and none of them can be used."""

    code, reason = 66, "unresumable"


class Locked(RunError):
    """Another process trains in this directory."""

    code, reason = 69, "locked"


class OutOfMemory(RunError):
    code, reason = 70, "out_of_memory"


class NonFinite(RunError):
    """The loss or a gradient is not a number."""

    code, reason = 71, "nonfinite"


class NoProgress(RunError):
    """Several attempts in a row ended without a new durable step."""

    code, reason = 72, "no_progress"


class CannotWrite(RunError):
    code, reason = 73, "cannot_write"


class LostPeer(RunError):
    """Other ranks are gone or do not answer. Only they know why."""

    code, reason = 76, "rank"


class Preempted(BaseException):
    """The run was asked to stop, has saved, and is to be continued. No `except Exception` may swallow it."""

    code, reason = 75, "preempted"

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(f"stopped after step {step}; saved in {folder}")
        self.step = step
        self.folder = folder
