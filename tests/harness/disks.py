"""A tmpfs that only processes see which enter its namespaces: a disk that can be full, shared memory of one's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = "--mount" if os.geteuid() == 0 else "--mount --map-root-user"


@dataclass(frozen=True)
class Disk:
    """Mounted in the namespaces of a process that does nothing else."""

    pid: int
    folder: Path

    @property
    def seen(self) -> Path:
        """The folder as it is seen from outside."""
        return Path(f"/proc/{self.pid}/root{self.folder}")

    def enter(self) -> None:
        for kind in ("user", "mnt"):
            ours, theirs = Path(f"/proc/self/ns/{kind}"), Path(f"/proc/{self.pid}/ns/{kind}")
            if os.readlink(ours) == os.readlink(theirs):
                continue
            descriptor = os.open(theirs, os.O_RDONLY)
            cwd = os.getcwd()
            assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) == 0, os.strerror(ctypes.get_errno())
            os.close(descriptor)
            os.chdir(cwd)  # entering a mount namespace leads to its root


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Disk]:
    script = f"mount -t tmpfs -o size={size} none '{folder}' && echo mounted && exec sleep 600"
    holder = subprocess.Popen(["unshare", *NAMESPACES.split(), "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "mounted\n"
        yield Disk(holder.pid, folder)
    finally:
        holder.kill()
        holder.wait()
