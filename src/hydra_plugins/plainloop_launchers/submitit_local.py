"""`hydra/launcher=submitit_local`: the plugin's keys on one machine, with the jobs that Slurm would get."""

# No postponed annotations: Hydra's scan runs this file outside of sys.modules, where dataclasses cannot resolve them.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig


@dataclass
class LocalConf(LocalQueueConf):
    """The plugin's keys. A job that is not finished at its time limit saves and stops."""

    _target_: str = "hydra_plugins.plainloop_launchers.submitit_local.SubmititLocalLauncher"
    submitit_folder: str = "${hydra.sweep.dir}/.submitit"
    name: str = "${name}"
    mem_gb: float | None = None  # not enforced on one machine
    array_parallelism: int = 1  # jobs at the same time; for one GPU each, hydra/launcher=gpu_pool
    setup: list[str] | None = None


class SubmititLocalLauncher(BaseSubmititLauncher):
    """Runs checked jobs through submitit's local executor."""

    _EXECUTOR = "local"

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Raises InvalidConfig; writes nothing."""
        from plainloop.sweep.local.submitit import check

        self.sweep = task_function
        check(self.params)

    def launch_jobs(self, jobs: Sequence[Any]) -> Any:
        """Runs checked jobs to their ends; see plainloop.sweep.local.submitit.launch."""
        from plainloop.sweep.job import Launched
        from plainloop.sweep.local.submitit import launch
        from plainloop.sweep.slurm.job import slurm_jobs

        codes, stopped_by = launch(self.params, slurm_jobs(jobs, self.sweep.root.absolute()))
        return Launched(codes, stopped_by=stopped_by)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that propose jobs one after the other; each is checked when it comes."""
        jobs = [self.sweep.proposed(overrides) for overrides in job_overrides]
        self.launch_jobs(jobs)
        return [self.sweep.returned(job) for job in jobs]
