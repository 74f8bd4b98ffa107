"""What this process may use of the machine's CPUs, and that it ends when its parent does. No torch here."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def num_cpus(root: Path = Path("/")) -> int:
    """The CPUs that this process may use: its affinity, and at most what its cgroups and its Slurm job have here."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    files: list[tuple[Path, ...]] = [(group / "cpu.max",) for group in own_cgroups(root)]
    files.append(tuple(root / "sys/fs/cgroup/cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")))  # version 1
    for paths in files:
        if all(path.is_file() for path in paths):
            quota, period = " ".join(path.read_text() for path in paths).split()
            if quota not in ("max", "-1"):
                count = min(count, max(1, int(quota) // int(period)))
    job = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return min(count, int(job)) if job.isdigit() else count


def own_cgroups(root: Path = Path("/")) -> list[Path]:
    """The folders of this process's cgroup and of those around it, as far as they can be seen (version 2)."""
    top, names = root / "sys/fs/cgroup", root / "proc/self/cgroup"
    lines = names.read_text().splitlines() if names.is_file() else []
    own = top / next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    return [group for group in (own, *own.parents) if group.is_relative_to(top)]


def cpus_of_rank() -> int:
    """This process's share of them: what Slurm gave the rank as a task of its own, or else an equal part."""
    ranks_here, tasks = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE"))
    own = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if own.isdigit() and ranks_here != "1" and tasks.partition("(")[0] == ranks_here:  # "4(x2)": on both nodes
        return min(num_cpus(), int(own))
    return max(1, num_cpus() // int(ranks_here))


def cpus_per_rank() -> int:
    """How many threads it may use: OMP_NUM_THREADS where a person or a launcher has set it, else one for each CPU."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdigit() else cpus_of_rank()


class _Screen(io.FileIO):
    """Takes all that is written; what cannot be shown is lost (`>/dev/full`, or a pipe that nobody reads)."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def open_screens() -> None:
    """Makes standard streams that were closed (`>&-`), or cannot be written, ones that nobody reads."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream: Any = getattr(sys, name) or open(os.devnull, mode)  # noqa: SIM115  # before another file gets its number
        if mode == "w":
            stream.flush()
            raw = io.BufferedWriter(_Screen(stream.fileno(), "w", closefd=False))
            stream = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
        setattr(sys, name, stream)


def open_screens_of_command() -> None:
    """`open_screens`, so that with `| head` a command does all its work; not where a program takes what it prints."""
    if sys.stdout is sys.__stdout__:
        open_screens()


def sleep_while_waiting() -> None:
    """Has torch's threads sleep while they wait for one another; called before torch is imported.

    By default they spin, and where another program keeps a core busy, a small model takes twenty times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def end_with_parent(parent: int | None = None) -> None:
    """Has the kernel kill this process when its parent ends, however that ends (Linux only).

    Ends this process at once if `parent`, the process that started it, is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
