"""What this process may use of the machine's CPUs, and that it ends when its parent does. No torch here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def num_cpus(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The CPUs that this process may use: its affinity, and no more than a container's quota gives."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2 of cgroups, and 1
        paths = [cgroups / name for name in names]
        if all(path.is_file() for path in paths):
            quota, period = " ".join(path.read_text() for path in paths).split()
            if quota not in ("max", "-1"):
                count = min(count, max(1, int(quota) // int(period)))
    return count


def cpus_per_rank() -> int:
    """This process's share of the CPUs: OMP_NUM_THREADS where a person or a launcher has set it, else among the ranks
    of this machine."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdigit() else max(1, num_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def open_closed_streams() -> None:
    """Makes a standard stream that was closed (`>&-`) one that nobody reads, before another file gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for as long as the process lasts


def flush_or_forget(stream: TextIO) -> None:
    """Writes what the stream still holds; where that cannot be written (`>/dev/full`), it goes nowhere."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


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
