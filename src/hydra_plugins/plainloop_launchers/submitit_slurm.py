"""`hydra/launcher=submitit_slurm`: the plugin's keys, and jobs that continue after preemption and time limits.

Hydra imports this file at every start, so the work is done in `plainloop.sweep.slurm`.
"""

# No postponed annotations: Hydra's scan runs this file outside of sys.modules, where dataclasses cannot resolve them.

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.errors import BadConfig


@dataclass
class SlurmConf(SlurmQueueConf):
    """The plugin's keys and more. Times are in minutes where the name says so, else in seconds."""

    _target_: str = "hydra_plugins.plainloop_launchers.submitit_slurm.SlurmLauncher"
    submitit_folder: str = "${hydra.sweep.dir}/.submitit"  # no %j: sbatch needs the folder before the job exists
    name: str = "${name}"
    mem_gb: float | None = None
    wait: bool = True  # false: return as soon as the jobs are queued
    python: str | None = None  # the interpreter on the nodes; null takes the one that submits
    use_srun: bool = True  # false: one task, straight from the batch script
    srun_args: list[str] = field(default_factory=list)
    teardown: list[str] | None = None
    nodelist: str | None = None
    dependency: str | None = None
    exclusive: Any = None  # true, user, mcs
    mail_type: str | None = None
    mail_user: str | None = None
    wckey: str | None = None


def site_defaults(conf_dir: Path) -> SlurmConf:
    """The defaults, with the keys of conf/local/slurm.yaml over them, which are the user's and not in git.

    Raises BadConfig for a file with other keys or values.
    """
    path = conf_dir / "local" / "slurm.yaml"
    if not path.is_file():
        return SlurmConf()
    known = {one.name for one in fields(SlurmConf)} - {"_target_"}
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        unknown = sorted(set(given) - known) if isinstance(given, dict) else ["(no keys)"]
        if unknown:
            raise ValueError(f"unknown: {', '.join(map(str, unknown))}")
        conf = SlurmConf(**given)
        OmegaConf.structured(conf)  # checks the types
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        hint = f"its keys are those of hydra.launcher: {', '.join(sorted(known))}"
        raise BadConfig(f"{path}: {str(error).splitlines()[0]}", hint=hint) from error
    return conf


class SlurmLauncher(BaseSubmititLauncher):
    """Checks with Slurm before anything exists, submits checked configs, and waits."""

    _EXECUTOR = "slurm"

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Raises InvalidConfig when the site cannot run such jobs; writes nothing."""
        from plainloop.sweep.slurm.launching import check

        self.sweep = task_function
        check(self.params, configs=task_function.configs)

    def launch_jobs(self, jobs: Sequence[Any]) -> Any:
        """Submits checked jobs, and waits for them unless wait=false; see plainloop.sweep.slurm.launching.launch."""
        from plainloop.sweep.slurm.job import slurm_jobs
        from plainloop.sweep.slurm.launching import launch

        root = self.sweep.root.absolute()
        return launch(self.params, root=root, jobs=slurm_jobs(jobs, root))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that propose jobs one after the other; each is checked when it comes."""
        jobs = [self.sweep.proposed(overrides) for overrides in job_overrides]
        self.launch_jobs(jobs)
        return [self.sweep.returned(job) for job in jobs]
