"""What runs could leave on a machine, told from what other processes are using at the moment."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

SHARED = Path("/dev/shm")
PATIENCE_S = 10.0  # between making a semaphore and removing its name, whoever does it, there are microseconds


def open_files() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/fd"))


def orphans() -> set[str]:
    """Names in shared memory of this user's that no living process has open or mapped."""
    held = _held()
    found = set()
    for path in SHARED.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid == os.getuid() and str(path) not in held:
                found.add(path.name)
    return found


def new_orphans(before: set[str]) -> set[str]:
    """Those that stay; what another process has just made, or is about to remove, is not among them."""
    until = time.monotonic() + PATIENCE_S
    while (found := orphans() - before) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _held() -> set[str]:
    held = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text().splitlines():
                held.add(line.partition("/")[1] + line.partition("/")[2].removesuffix(" (deleted)"))
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    held.add(os.readlink(link))
    return held
