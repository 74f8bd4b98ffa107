"""Waiting for Slurm jobs: each change of state is told once, and what would pend for ever is cancelled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from plainloop.sweep.slurm import client
from plainloop.sweep.slurm.client import Seen
from plainloop.system import storage

log = logging.getLogger("plainloop")

POLLS = 3  # that must agree before a job is given up
SHORTEST_S, LONGEST_S = 1.0, 15.0  # between two polls: quick to begin with, later kind to the controller
RACE_S = 600.0  # how long a job may be unknown, or a controller away


class Watch:
    """Follows Slurm jobs, by the number of the sweep's job.

    Args:
        ids: Slurm's jobs.
        folders: the run directories.
        logs: rank 0's log files.
    """

    def __init__(self, ids: Mapping[int, str], *, folders: Mapping[int, Path], logs: Mapping[int, Path]) -> None:
        self.ids, self.folders, self.logs = dict(ids), folders, logs
        self.seen: dict[int, Seen] = {}
        self._stuck: dict[int, int] = {}
        self._answered = time.monotonic()
        self._unknown_since: dict[int, float] = {}

    @property
    def left(self) -> list[int]:
        return [number for number in self.ids if not self._is_over(number)]

    def poll(self) -> None:
        """Asks once about all that have not ended. Raises SlurmError when nobody has answered for ten minutes."""
        asked = self.left
        try:
            states = client.states(self.ids[number] for number in asked)
        except client.SlurmError:
            if time.monotonic() - self._answered > RACE_S:
                raise
            return
        self._answered = time.monotonic()
        for number in asked:
            self._take_in(number, states[self.ids[number]])

    def until_all_ended(self, *, told: Callable[[], None] = lambda: None) -> dict[int, Seen]:
        """Polls until every job has ended. KeyboardInterrupt leaves the jobs alone."""
        pause = SHORTEST_S
        while True:
            self.poll()
            told()
            if not self.left:
                return self.seen
            time.sleep(pause)
            pause = min(LONGEST_S, pause * 1.2)

    def until_accepted(self) -> None:
        """A few polls, so that what never starts is known also by those who do not wait."""
        for _ in range(POLLS):
            self.poll()
            if all(self.seen[number].state != "PENDING" for number in self.left):
                return
            time.sleep(SHORTEST_S)

    def _take_in(self, number: int, seen: Seen) -> None:
        if seen.state == "UNKNOWN":
            self._unknown_since.setdefault(number, self._answered)
        else:
            self._unknown_since.pop(number, None)
        before = self.seen.get(number)
        self.seen[number] = seen
        if before is None or before.state != seen.state:
            self._tell(number, seen, before)
        self._stuck[number] = self._stuck.get(number, 0) + 1 if seen.never_starts else 0
        if self._stuck[number] >= POLLS:
            self._give_up(number, seen.reason)

    def _tell(self, number: int, seen: Seen, before: Seen | None) -> None:
        why = f" ({seen.reason})" if seen.state == "PENDING" and seen.reason not in ("None", "Priority", "") else ""
        shown = f", log {self.logs[number]}" if number in self.logs and (before is None or seen.ended) else ""
        log.info("job %d: Slurm job %s is %s%s%s", number, self.ids[number], seen.state, why, shown)

    def _give_up(self, number: int, reason: str) -> None:
        """Cancels it and says so where the job's status is read."""
        job = self.ids[number]
        client.cancel([job])
        hint = (
            f"Slurm job {job} would never start: Slurm says {reason}. Change hydra.launcher.* and start the sweep again"
        )
        log.error("job %d cancelled: %s", number, hint)
        self.folders[number].mkdir(parents=True, exist_ok=True)
        path = self.folders[number] / "status.json"
        words = {"state": "FAILED", "reason": reason, "hint": hint, "exit_code": client.SlurmError.code}
        storage.write_json(path, {**(storage.read_json(path) or {}), **words})
        self.seen[number] = Seen("CANCELLED", reason)

    def _is_over(self, number: int) -> bool:
        seen = self.seen.get(number)
        if seen is None:
            return False
        forgotten = self._unknown_since.get(number)  # without accounting Slurm forgets a job minutes after its end
        return seen.ended or (forgotten is not None and self._answered - forgotten > 10)
