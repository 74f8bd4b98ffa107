"""Which rank failed first, and why: notes that ranks, and who watches them, leave where all of them can read.

When one rank fails, the others see no more than a closed connection. They look here for the reason and pass it on, so
that status.json, the message and the exit code are those of the root cause. No torch here.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from plainloop.distributed import ranks
from plainloop.errors import LostPeer, Preempted, RunError
from plainloop.run_dir.journal import Journal
from plainloop.system import storage

WAIT_S = 4.0  # for a note of the rank that failed: those who watch need up to two seconds to see that one hangs

OF_A_RUN = ".failed."  # begins the name of a folder of notes in a run directory, where the ranks share no other


@dataclass(frozen=True)
class Failure:
    """What one rank says of its end, or what is said of it."""

    rank: int
    what: str  # one line or more
    code: int
    reason: str
    hint: str = ""
    trace: str = ""  # "" where `what` says it all
    lost: bool = False  # it only saw that others had gone
    time: float = 0.0

    def told(self) -> str:
        return f"rank {self.rank} failed: {self.what}" + (f"\n{self.trace}" if self.trace else "")


class RankFailed(RunError):
    """Some rank failed, and this is the reason; with the exit code of that."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.told(), hint=failure.hint)
        self.failure = failure
        self.code, self.reason = failure.code, failure.reason


def of(error: BaseException, *, rank: int) -> Failure:
    """What a person can mend is told as it is; anything else with its traceback."""
    if isinstance(error, RunError):
        lost = isinstance(error, LostPeer)
        return Failure(rank, str(error), error.code, error.reason, error.hint, lost=lost, time=time.time())
    trace = "".join(traceback.format_exception(error)).rstrip()
    return Failure(
        rank, f"{type(error).__name__}: {error}", RunError.code, RunError.reason, trace=trace, time=time.time()
    )


def note(folder: Path, failure: Failure, *, again: bool = False) -> None:
    """Leaves a note; of several about one rank the first counts, unless the author tells more of it."""
    path = folder / f"rank{failure.rank}.failed.json"
    if again or not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        storage.write_json(path, asdict(failure))


def read(folder: Path) -> list[Failure]:
    """All notes, the likeliest root cause first: the earliest of those that did not only see others go."""
    rows = [storage.read_json(path) for path in folder.glob("rank*.failed.json")]
    return sorted((Failure(**row) for row in rows if row), key=lambda failure: (failure.lost, failure.time))


def root(folder: Path, *, within_s: float) -> Failure | None:
    """The note of a rank that failed by itself; None where none turns up in that time."""
    until = time.monotonic() + within_s
    while True:
        found = read(folder)
        if found and not found[0].lost:
            return found[0]
        if time.monotonic() > until:
            return None
        time.sleep(0.05)


@contextmanager
def noted(folder: Path, *, rank: int) -> Iterator[None]:
    """Leaves a note of what ends the block, unless that is another rank's failure.

    A process on its own has nobody to tell.
    """
    try:
        yield
    except (Preempted, KeyboardInterrupt, RankFailed):
        raise
    except BaseException as error:
        if ranks.world_size() > 1:
            note(folder, of(error, rank=rank))
        raise


@contextmanager
def blamed(folder: Path, journal: Journal | None, *, rank: int) -> Iterator[None]:
    """Turns "others have gone" into the reason why they went, where that can be found. Raises RankFailed.

    Rank 0 has the journal, and writes down there what each rank had to say.
    """
    if journal:
        for old in set(journal.folder.glob(f"{OF_A_RUN}*")) - {folder}:
            shutil.rmtree(old, ignore_errors=True)
    try:
        yield
    except LostPeer as error:
        note(folder, of(error, rank=rank))
        found = root(folder, within_s=WAIT_S)
        if journal:
            for failure in read(folder):
                journal.event("rank_failed", **asdict(failure))
        if found is None:
            raise
        raise RankFailed(found) from error
