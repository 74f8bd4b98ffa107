"""Which of how many processes this one is, as the launcher says in the environment. No torch here.

torchrun, our own workers and our Slurm launcher set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. Open MPI and a
bare srun set other variables, which `read_launcher_variables` translates into these four.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from hashlib import blake2b
from pathlib import Path

from plainloop.errors import BadConfig

# Names a folder that the ranks of one machine share: they find each other and write failure files there.
RENDEZVOUS = "PLAINLOOP_RENDEZVOUS"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# rank, ranks, rank on this machine, ranks on this machine.
OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))

# The same in all processes of one mpirun, and in no other's: they hold its process id, or a port that it listens on.
OF_THE_JOB = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri")


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def on_this_machine() -> int:
    """Ranks that share this machine with this one, itself included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def on_one_machine() -> bool:
    """Whether all ranks run on this machine, so that they can talk over loopback."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return on_this_machine() == world_size()
    return os.environ.get("MASTER_ADDR", "127.0.0.1") in LOOPBACK


def rendezvous_folder() -> Path | None:
    """The folder that the ranks share; None if they connect to an address instead (torchrun, several machines)."""
    return Path(os.environ[RENDEZVOUS]) if RENDEZVOUS in os.environ else None


def read_launcher_variables() -> None:
    """Sets RANK and the other three from the variables of Open MPI or a bare srun that started several processes.

    Does nothing where WORLD_SIZE is set. On one machine the ranks then meet in a private folder; on several,
    MASTER_ADDR and MASTER_PORT must be given. Raises BadConfig where they are not.
    """
    if "WORLD_SIZE" in os.environ:
        return
    place = _open_mpi() or _srun()
    if place is None or int(place[1]) == 1:
        return
    os.environ |= dict(zip(OURS, place, strict=True))
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        os.environ.pop(RENDEZVOUS, None)
    elif on_one_machine():
        os.environ[RENDEZVOUS] = str(_private_folder())
    else:
        raise BadConfig(
            f"{world_size()} processes on several machines were started, and they cannot know where to meet",
            hint="export MASTER_ADDR=<first machine> MASTER_PORT=<a free port>; mpirun: -x MASTER_ADDR -x MASTER_PORT",
        )


def remove_rendezvous_folder() -> None:
    """Removes the shared folder after the run if it is empty: no other rank uses it, none has failed."""
    folder = rendezvous_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _open_mpi() -> tuple[str, ...] | None:
    return tuple(os.environ[name] for name in OPEN_MPI) if all(name in os.environ for name in OPEN_MPI) else None


def _srun() -> tuple[str, ...] | None:
    """The place in a step of several tasks. Batch scripts and shells have SLURM_PROCID too, as steps of one task."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")
    if not all(name in os.environ for name in names):
        return None
    number, tasks, local, nodes = (os.environ[name] for name in names)
    return number, tasks, local, str(int(tasks) // int(nodes))


def _private_folder() -> Path:
    """The same folder in all processes of one job, and in no other. Raises BadConfig if others can use it."""
    known = [f"{name}={os.environ[name]}" for name in OF_THE_JOB if name in os.environ]
    known += [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PMIX_SERVER_URI")]
    step = [os.environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
    parent = Path(f"/proc/{os.getppid()}/stat")
    if not known and not any(step):
        # All have the same parent; with its start time, no later process with the same pid is taken for it.
        started = parent.read_bytes().rpartition(b")")[2].split()[19].decode() if parent.exists() else ""
        known = [f"{os.getppid()} {started}"]
    key = blake2b("\n".join([*sorted(known), *step]).encode(), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"plainloop-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise BadConfig(f"{folder} must be yours alone: the ranks meet there", hint=f"remove it: rm -r {folder}")
    return folder
