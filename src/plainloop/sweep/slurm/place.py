"""Rank, world size and rendezvous of this process, from the environment of its Slurm job."""

from __future__ import annotations

import os
import random

from plainloop.distributed import ranks
from plainloop.sweep.slurm.port import PORTS
from plainloop.system.processes import sleep_while_waiting

PORT = "PLAINLOOP_PORT"  # free on the first node; the batch script sets it
VARIABLES = (*ranks.OURS, "MASTER_ADDR", "MASTER_PORT", ranks.RENDEZVOUS)


def set_rank_variables() -> int:
    """Sets what torch.distributed reads (env://), and returns the rank. CUDA_VISIBLE_DEVICES stays as Slurm set it.

    Variables of the submitting shell are removed. A job of one task gets none: `trainer.devices` may start workers.
    """
    import submitit

    for name in VARIABLES:
        os.environ.pop(name, None)
    job = submitit.JobEnvironment()
    if job.num_tasks > 1:
        os.environ |= {
            "RANK": str(job.global_rank),
            "WORLD_SIZE": str(job.num_tasks),
            "LOCAL_RANK": str(job.local_rank),
            "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
            "MASTER_ADDR": job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1",
            "MASTER_PORT": os.environ.get(PORT)
            or str(port_of(job.job_id, int(os.environ.get("SLURM_RESTART_COUNT", 0)))),
        }
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    if cpus:
        os.environ.setdefault("OMP_NUM_THREADS", cpus)
    sleep_while_waiting()
    rank: int = job.global_rank
    return rank


def port_of(job: str, restart: int) -> int:
    """The port where the batch script has set none: equal on every rank, and another at each restart, because the last
    attempt may still hold its port.

    >>> port_of("12_3", 0) == port_of("12_3", 0), port_of("12_3", 0) == port_of("12_3", 1)
    (True, False)
    """
    return random.Random(f"{job} {restart}").choice(PORTS)
