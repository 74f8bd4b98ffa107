"""This process's place among the job's: rank, world size, where they meet; all from the job's own environment."""

from __future__ import annotations

import os
import random

from plainloop.distributed import ranks
from plainloop.sweep.slurm.port import PORTS
from plainloop.system.processes import sleep_while_waiting

PORT = "PLAINLOOP_PORT"  # a free one of the first node, found by the batch script
VARIABLES = (*ranks.OURS, "MASTER_ADDR", "MASTER_PORT", ranks.RENDEZVOUS)


def take_place() -> int:
    """Sets what torch.distributed reads (env://), and returns the rank. CUDA_VISIBLE_DEVICES stays as Slurm dealt it.

    What the submitting shell had is forgotten. A job of one task gets nothing: `trainer.devices` may start workers.
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
    """Where no batch script has looked for one: the same on every rank without asking, another one at each restart,
    since the last attempt may not be gone yet.

    >>> port_of("12_3", 0) == port_of("12_3", 0), port_of("12_3", 0) == port_of("12_3", 1)
    (True, False)
    """
    return random.Random(f"{job} {restart}").choice(PORTS)
