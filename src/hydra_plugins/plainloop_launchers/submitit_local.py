"""`hydra/launcher=submitit_local`: the plugin's keys on one machine, with the jobs that Slurm would be given."""

# No postponed annotations: Hydra's scan runs this file outside of sys.modules, where dataclasses cannot resolve them.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig


@dataclass
class LocalConf(LocalQueueConf):
    """The plugin's keys. A job that is not done at its time limit saves and stops."""

    _target_: str = "hydra_plugins.plainloop_launchers.submitit_local.SubmititLocalLauncher"
    submitit_folder: str = "${hydra.sweep.dir}/.submitit"
    name: str = "${name}"
    mem_gb: float | None = None  # not enforced on one machine
    array_parallelism: int = 1  # jobs at a time; for one GPU each, hydra/launcher=gpu_pool
    setup: list[str] | None = None


class SubmititLocalLauncher(BaseSubmititLauncher):
    """Runs checked jobs through submitit's local executor."""

    _EXECUTOR = "local"

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises InvalidConfig; makes nothing."""
        from plainloop.sweep.local.submitit import check

        self.sweep: Any = task_function
        check(self.params)

    def launch_jobs(self, jobs: Sequence[Any]) -> Any:
        """Runs checked jobs to their ends; see plainloop.sweep.local.submitit.launch."""
        from hydra_plugins.plainloop_launchers.submitit_slurm import tasks_of
        from plainloop.sweep.job import Launched
        from plainloop.sweep.local.submitit import launch

        codes, stopped_by = launch(self.params, tasks=tasks_of(jobs, self.sweep.root.absolute()))
        return Launched(codes, stopped_by=stopped_by)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that decide from job to job what to try next: each is checked when it comes."""
        jobs = [self.sweep.prepare(number, tuple(job)) for number, job in enumerate(job_overrides, initial_job_idx)]
        self.launch_jobs(jobs)
        return [self.sweep.returned(job) for job in jobs]
