"""What launchers are given as the task of a sweep: ours take its jobs, Hydra's own call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from plainloop.errors import RunError
from plainloop.sweep import outcome
from plainloop.sweep.job import Job, train


class Task:
    """The jobs of a sweep.

    Args:
        root: the sweep's folder, absolute.
        jobs: checked; with their numbers and folders once the sweep is settled.
        late: composes, checks and writes down a job that a sweeper thinks of while the sweep runs.
    """

    def __init__(self, root: Path, jobs: Sequence[Job], late: Callable[[tuple[str, ...]], Job]) -> None:
        self.root, self.jobs, self._late = root, list(jobs), late

    @property
    def configs(self) -> list[Mapping[str, Any]]:
        """As checked, before there is anything on disk."""
        return [job.config for job in self.jobs]

    def __call__(self, composed: DictConfig) -> float | None:
        """For launchers that know of nothing else; what they composed again is not looked at."""
        hydra = HydraConfig.get()
        number = int(hydra.job.num)
        job = next((job for job in self.jobs if job.number == number), None) or self.prepare(
            number, hydra.overrides.task
        )
        train(job.config, job.folder)
        return self._score(job)

    def prepare(self, number: int, overrides: Sequence[str]) -> Job:
        """A job that a sweeper thinks of; it has a number of its own where `number` was given to another before.

        Raises InvalidConfig.
        """
        job = self._late(tuple(overrides))
        if all(job.number != one.number for one in self.jobs):
            self.jobs.append(job)
        return job

    def returned(self, job: Job) -> JobReturn:
        """What sweepers learn of a job: its best metric, or that it failed."""
        row = outcome.row(job.folder, job.number, job.overrides)
        if row.state == "DONE":
            return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=self._score(job))
        error = RunError(f"job {job.number} is {row.state}: {row.why}")
        return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=error)

    def _score(self, job: Job) -> float | None:
        best = outcome.row(job.folder, job.number, job.overrides).best
        return best["value"] if best else None
