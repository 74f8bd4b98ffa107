"""`hydra/launcher=submitit_slurm`: the plugin's keys, and jobs that survive what Slurm does to them.

The class is a stand-in that Hydra's scan can afford; what it does is in `plainloop.slurm`.
"""

# No postponed annotations: Hydra's scan runs this file outside of sys.modules, where dataclasses cannot resolve them.

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig


@dataclass
class SlurmConf(SlurmQueueConf):
    """The plugin's keys and defaults, and what it lacks. Times are in minutes where the name says so, else seconds."""

    _target_: str = "hydra_plugins.plainloop_launchers.submitit_slurm.SlurmLauncher"
    submitit_folder: str = "${hydra.sweep.dir}/.submitit"  # no %j: sbatch needs it before there is a job
    name: str = "${name}"
    mem_gb: float | None = None
    wait: bool = True  # false: return as soon as the jobs are queued
    python: str | None = None  # the interpreter on the nodes; the one that submits when not given
    use_srun: bool = True  # false: one task, straight from the batch script
    srun_args: list[str] = field(default_factory=list)
    teardown: list[str] | None = None
    nodelist: str | None = None
    dependency: str | None = None
    exclusive: Any = None  # true, user, mcs
    mail_type: str | None = None
    mail_user: str | None = None
    wckey: str | None = None


class SlurmLauncher(BaseSubmititLauncher):
    """Checks with Slurm before anything exists, submits checked configs, and waits."""

    _EXECUTOR = "slurm"

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises BadConfig when the site cannot run such jobs; makes nothing."""
        from plainloop.slurm.launching import check

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        check(self.params, configs=[job.checked.config for job in task_function.sweep.jobs])  # type: ignore[attr-defined]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from plainloop.slurm.launching import launch

        assert self.config is not None and self.hydra_context is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        loader = self.hydra_context.config_loader
        jobs = {
            number: (job.folder.absolute(), job.checked.config, loader.load_sweep_config(self.config, list(overrides)))
            for number, (job, overrides) in enumerate(zip(self.task_function.sweep.jobs, job_overrides, strict=True))
        }
        codes = launch(self.params, root=Path(str(self.config.hydra.sweep.dir)).absolute(), jobs=jobs)
        return [JobReturn(_return_value=code, status=JobStatus.COMPLETED) for code in codes.values()]
