"""Waits for Slurm jobs: logs each change of state once, and cancels jobs that can never start."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals

from plainloop.run_dir.status import write_end
from plainloop.sweep.slurm import client
from plainloop.sweep.slurm.client import SlurmState

log = logging.getLogger("plainloop")

POLLS = 3  # in a row that must say so before a job is given up
LOOK_S = 0.1  # between two looks for a signal
SHORTEST_S, LONGEST_S = 1.0, 15.0  # between two polls, which become rarer to spare the controller
SILENCE_S = 600.0  # how long a controller may not answer
FORGOTTEN_S = 10.0  # without accounting Slurm forgets a job minutes after its end; unknown for this long is over


class Watch:
    """Follows Slurm jobs, by the number of the sweep's job.

    Args:
        ids: Slurm's jobs.
        runs: the run directories.
        logs: rank 0's log files.
        stop: ends the waiting once it holds a signal; the jobs are left alone.
    """

    def __init__(
        self, ids: Mapping[int, str], *, runs: Mapping[int, Path], logs: Mapping[int, Path], stop: Sequence[Signals]
    ) -> None:
        self.ids, self.runs, self.logs, self.stop = dict(ids), runs, logs, stop
        self.seen: dict[int, SlurmState] = {}
        self._num_stuck: dict[int, int] = {}
        self._last_answer = time.monotonic()
        self._unknown_since: dict[int, float] = {}

    @property
    def left(self) -> list[int]:
        return [number for number in self.ids if not self._is_over(number)]

    def poll(self) -> None:
        """Asks once about all jobs that have not ended. Raises SlurmError after SILENCE_S without an answer."""
        asked = self.left
        try:
            states = client.states(self.ids[number] for number in asked)
        except client.SlurmError:
            if time.monotonic() - self._last_answer > SILENCE_S:
                raise
            return
        self._last_answer = time.monotonic()
        for number in asked:
            self._update(number, states[self.ids[number]])

    def until_all_ended(self) -> None:
        """Polls until every job has ended."""
        pause = SHORTEST_S
        while not self.stop:
            self.poll()
            if not self.left:
                return
            self._sleep(pause)
            pause = min(LONGEST_S, pause * 1.2)

    def until_accepted(self) -> None:
        """Polls a few times, so that jobs which can never start are found also without waiting."""
        for _ in range(POLLS):
            if self.stop:
                return
            self.poll()
            seen = [self.seen.get(number) for number in self.left]
            if all(one and one.state != "PENDING" for one in seen):
                return
            self._sleep(SHORTEST_S)

    def _sleep(self, seconds: float) -> None:
        """In short parts: a handler that only notes its signal does not end `time.sleep`."""
        until = time.monotonic() + seconds
        while not self.stop and time.monotonic() < until:
            time.sleep(LOOK_S)

    def _update(self, number: int, seen: SlurmState) -> None:
        if seen.state == "UNKNOWN":
            self._unknown_since.setdefault(number, self._last_answer)
        else:
            self._unknown_since.pop(number, None)
        before = self.seen.get(number)
        self.seen[number] = seen
        if before is None or before.state != seen.state:
            self._log(number, seen, before)
        self._num_stuck[number] = self._num_stuck.get(number, 0) + 1 if seen.never_starts else 0
        if self._num_stuck[number] >= POLLS:
            self._give_up(number, seen.reason)

    def _log(self, number: int, seen: SlurmState, before: SlurmState | None) -> None:
        why = f" ({seen.reason})" if seen.state == "PENDING" and seen.reason not in ("None", "Priority", "") else ""
        shown = f", log {self.logs[number]}" if number in self.logs and (before is None or seen.ended) else ""
        log.info("job %d: Slurm job %s is %s%s%s", number, self.ids[number], seen.state, why, shown)

    def _give_up(self, number: int, reason: str) -> None:
        """Cancels the job and writes the reason to its status."""
        job = self.ids[number]
        client.cancel([job])
        hint = f"Slurm job {job} can never start: Slurm says {reason}. Change hydra.launcher.*, start the sweep again"
        log.error("job %d cancelled: %s", number, hint)
        self.runs[number].mkdir(parents=True, exist_ok=True)
        write_end(self.runs[number], "FAILED", reason=reason, hint=hint, exit_code=client.SlurmError.code)
        self.seen[number] = SlurmState("CANCELLED", reason)

    def _is_over(self, number: int) -> bool:
        seen = self.seen.get(number)
        unknown_since = self._unknown_since.get(number)
        forgotten = unknown_since is not None and self._last_answer - unknown_since > FORGOTTEN_S
        return seen is not None and (seen.ended or forgotten)
