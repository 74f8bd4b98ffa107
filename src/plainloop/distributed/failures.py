"""Which rank failed first, and why: files that ranks, and the parent that watches them, write where all can read them.

When one rank fails, the others see no more than a closed connection. They look here for the root cause, so that
status.json, the message and the exit code are those of the rank that failed first. No torch here.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from plainloop.distributed import ranks
from plainloop.errors import LostPeer, Preempted, RunError
from plainloop.system import storage

WAIT_S = 4.0  # for the file of the rank that failed; the parent needs up to two seconds to see that a rank hangs

NOTES_PREFIX = ".failed."  # of a folder for these files in the run directory, where the ranks share no other folder


@dataclass(frozen=True)
class Failure:
    """Why one rank ended, as the rank itself or the parent that watches it says."""

    rank: int
    what: str  # one line or more
    code: int
    reason: str
    hint: str = ""
    trace: str = ""  # empty where `what` says it all
    lost: bool = False  # the rank only saw that others had gone
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"rank {self.rank} failed: {self.what}" + (f"\n{self.trace}" if self.trace else "")


class RankFailed(RunError):
    """A rank failed, and this is why; with the exit code of that failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure), hint=failure.hint)
        self.failure = failure
        self.code, self.reason = failure.code, failure.reason


def from_exception(error: BaseException, *, rank: int) -> Failure:
    """Without a traceback for what a person can mend, with it for anything else."""
    if isinstance(error, RunError):
        return Failure(rank, str(error), error.code, error.reason, error.hint, lost=isinstance(error, LostPeer))
    trace = "".join(traceback.format_exception(error)).rstrip()
    return Failure(rank, f"{type(error).__name__}: {error}", RunError.code, RunError.reason, trace=trace)


def write(folder: Path, failure: Failure, *, again: bool = False) -> None:
    """Writes the rank's failure file. The first one wins unless `again` replaces it."""
    path = folder / f"rank{failure.rank}.failed.json"
    if folder.parent.is_dir() and (again or not path.exists()):  # else the run directory was moved
        folder.mkdir(mode=0o700, exist_ok=True)
        storage.write_json(path, asdict(failure))


def read(folder: Path) -> list[Failure]:
    """All failures, the likeliest root cause first: the earliest of those that did not only see others go."""
    rows = [storage.read_json(path) for path in folder.glob("rank*.failed.json")]
    return sorted((Failure(**row) for row in rows if row), key=lambda failure: (failure.lost, failure.time))


def wait_for_root_cause(folder: Path, *, within_s: float) -> Failure | None:
    """The failure of a rank that failed by itself; None if none is written in that time."""
    until = time.monotonic() + within_s
    while True:
        failures = read(folder)
        if failures and not failures[0].lost:
            return failures[0]
        if time.monotonic() > until:
            return None
        time.sleep(0.05)


@contextmanager
def recording(folder: Path, *, rank: int) -> Iterator[None]:
    """Writes down what ends the block, unless that is another rank's failure or there is only one process."""
    try:
        yield
    except (Preempted, KeyboardInterrupt, RankFailed):
        raise
    except BaseException as error:
        if ranks.world_size() > 1:
            write(folder, from_exception(error, rank=rank))
        raise


@contextmanager
def raising_root_cause(
    folder: Path, *, rank: int, on_failure: Callable[[Failure], None] = lambda failure: None
) -> Iterator[None]:
    """Replaces LostPeer by RankFailed with the reason why the other rank went, where that can be found.

    `on_failure` is called then, for each rank that failed.
    """
    try:
        yield
    except LostPeer as error:
        write(folder, from_exception(error, rank=rank))
        cause = wait_for_root_cause(folder, within_s=WAIT_S)
        for failure in read(folder):
            on_failure(failure)
        if cause is None:
            raise
        raise RankFailed(cause) from error


def remove_old_notes(run_folder: Path, *, keep: Path) -> None:
    """Removes the failure files of earlier attempts at a run; `keep` is the folder of this one."""
    for old in set(run_folder.glob(f"{NOTES_PREFIX}*")) - {keep}:
        shutil.rmtree(old, ignore_errors=True)
