"""`hydra/launcher=submitit_slurm`: the plugin's keys, and jobs that survive what Slurm does to them.

The class is a stand-in that Hydra's scan can afford; what it does is in `plainloop.sweep.slurm`.
"""

# No postponed annotations: Hydra's scan runs this file outside of sys.modules, where dataclasses cannot resolve them.

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.errors import BadConfig


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


def of_the_site(conf_dir: Path) -> SlurmConf:
    """The defaults, over them what conf/local/slurm.yaml says: keys of hydra.launcher, yours, not in git.

    Raises BadConfig for a file that holds something else.
    """
    path = conf_dir / "local" / "slurm.yaml"
    if not path.is_file():
        return SlurmConf()
    known = {one.name for one in fields(SlurmConf)} - {"_target_"}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        wrong = sorted(set(found) - known) if isinstance(found, dict) else ["(no keys)"]
        if wrong:
            raise ValueError(f"unknown: {', '.join(map(str, wrong))}")
        conf = SlurmConf(**found)
        OmegaConf.structured(conf)  # judges the types
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        said = str(error).splitlines()[0]
        raise BadConfig(
            f"{path}: {said}", hint=f"its keys are those of hydra.launcher: {', '.join(sorted(known))}"
        ) from error
    return conf


class SlurmLauncher(BaseSubmititLauncher):
    """Checks with Slurm before anything exists, submits checked configs, and waits."""

    _EXECUTOR = "slurm"

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises InvalidConfig when the site cannot run such jobs; makes nothing."""
        from plainloop.sweep.slurm.launching import check

        sweep: Any = task_function  # ours: see plainloop.sweep.task
        self.sweep = sweep
        check(self.params, configs=sweep.configs)

    def launch_jobs(self, jobs: Sequence[Any]) -> Any:
        """Submits checked jobs, and waits for them unless told not to; see plainloop.sweep.slurm.launching.launch."""
        from plainloop.sweep.job import Launched
        from plainloop.sweep.slurm.launching import launch

        root = self.sweep.root.absolute()
        try:
            codes = launch(self.params, root=root, tasks=tasks_of(jobs, root))
        except KeyboardInterrupt:
            return Launched({}, stopped_by="SIGINT")
        return Launched(codes or {}, waited=codes is not None)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that decide from job to job what to try next: each is checked when it comes."""
        jobs = [self.sweep.prepare(number, tuple(job)) for number, job in enumerate(job_overrides, initial_job_idx)]
        self.launch_jobs(jobs)
        return [self.sweep.returned(job) for job in jobs]


def tasks_of(jobs: Sequence[Any], root: Path) -> dict[int, Any]:
    """What submitit pickles for each job, by number."""
    from plainloop.sweep.job import run_as_hydra_job, train
    from plainloop.sweep.slurm import sources
    from plainloop.sweep.slurm.task import Task

    snapshot = sources.take()
    return {
        job.number: Task(
            rank_0=partial(run_as_hydra_job, job, root, quiet=False),
            others=partial(train, job.config, job.folder),
            folder=job.folder,
            config=job.config,
            sources=snapshot,
        )
        for job in jobs
    }
