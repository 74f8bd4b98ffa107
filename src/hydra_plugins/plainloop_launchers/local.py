"""`hydra/launcher=local`, the default: one job after the other. `gpu_pool`: one or more for each GPU at once.

Hydra imports this file at every start, so the work is done in `plainloop.sweep`.
"""

# No postponed annotations: Hydra's scan runs this file outside of sys.modules, where dataclasses cannot resolve them.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig


@dataclass
class LocalConf:
    _target_: str = "hydra_plugins.plainloop_launchers.local.LocalLauncher"


@dataclass
class GpuPoolConf:
    _target_: str = "hydra_plugins.plainloop_launchers.local.GpuPoolLauncher"
    gpus_per_job: int = 1  # 0: jobs see none
    slots: Any = "auto"  # jobs at the same time; auto: as many as the GPUs allow, and one on a machine without
    jobs_per_gpu: int = 1  # jobs that share a GPU, for small models that leave most of it idle


class GpuPoolLauncher(Launcher):
    """Jobs are forks of this process, each with GPUs of its own and its share of the CPU."""

    def __init__(self, gpus_per_job: int = 1, slots: Any = "auto", jobs_per_gpu: int = 1) -> None:
        self.keys = gpus_per_job, slots, jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Raises InvalidConfig when a job asks for more than it gets; writes nothing."""
        from plainloop.sweep.local.gpu_pool import gpus_of_slots

        self.sweep = task_function
        self.gpus: Any = gpus_of_slots(*self.keys, configs=task_function.configs)

    def launch_jobs(self, jobs: Sequence[Any]) -> Any:
        """Runs checked jobs to their ends; see plainloop.sweep.local.launch.launch."""
        from plainloop.sweep.local.launch import launch

        return launch(jobs, self.sweep.root, self.gpus)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that propose jobs one after the other; each is checked when it comes."""
        jobs = [self.sweep.proposed(overrides) for overrides in job_overrides]
        self.launch_jobs(jobs)
        return [self.sweep.returned(job) for job in jobs]


class LocalLauncher(GpuPoolLauncher):
    """A pool with one slot, as a single run has it: all GPUs, all threads, and the screen."""

    def __init__(self) -> None:
        super().__init__()

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        self.sweep, self.gpus = task_function, None


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="plainloop")
ConfigStore.instance().store(group="hydra/launcher", name="gpu_pool", node=GpuPoolConf, provider="plainloop")
