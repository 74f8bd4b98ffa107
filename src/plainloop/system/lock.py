"""One process at a time trains in a folder: `run.lock`, and who holds it. No torch here.

Where the file system has flock, the kernel releases the lock the moment its holder dies. Elsewhere a file,
`run.lease`, is the lock: its holder renews it, and one that is not renewed for `LEASE_S` does not count.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plainloop.errors import BadData, Locked
from plainloop.system import storage

LEASE_S = 600.0  # a lease that is not renewed for so long is free; longer than any evaluation or compilation
READER_S = 0.5  # how long to try: readers hold the lock for a moment, to see whether it is free
DYING_S = 10.0  # how long to try after the holder was killed: its last threads and children still hold the lock
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

KINDS: dict[str, type] = {"pid": int, "since": float}  # of what `this_process` gives; run.lock has the time too
KINDS |= dict.fromkeys(("pid_start", "host", "boot_id", "pid_namespace", "slurm_job"), str)

_held: set[int] = set()


def _close_copies() -> None:
    """Closes the lock in a forked data worker: a flock lasts until the last copy of its descriptor is closed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_copies)


def this_process() -> dict[str, Any]:
    """What others need to know to see whether this process still runs."""
    return {
        "pid": os.getpid(),
        "pid_start": _start(os.getpid()),  # a later process may get the same pid
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
    }


def is_alive(who: Mapping[str, Any]) -> bool | None:
    """Whether that process runs; None where that cannot be seen from here (another host or container).

    Nothing else believes a pid from a file: numbers below 1 mean groups of processes, and a later process may have
    the number of an earlier one.
    """
    if who.get("host") != socket.gethostname() or not who.get("boot_id"):
        return None
    if who["boot_id"] != _boot_id():
        return False
    if who.get("pid_namespace") != _pid_namespace():
        return None
    pid = who.get("pid")
    if type(pid) is not int or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's, whose start some systems hide
        pass
    started = _start(pid)
    return started == who.get("pid_start") if started else None


def stop(folder: Path, who: Mapping[str, Any]) -> bool:
    """Tells a process to save and stop; whether it was told. A file can name any process: this must be one that runs,
    that is not the first of its machine or container, and that has the folder's `run.lock` open."""
    if not is_alive(who) or who["pid"] < 2 or not _has_open(who["pid"], folder.resolve() / "run.lock"):
        return False
    os.kill(who["pid"], signal.SIGTERM)
    return True


def is_held(folder: Path) -> bool | None:
    """Whether a process holds the folder's flock, as seen from this machine; None if that cannot be seen."""
    try:
        descriptor = storage.open_file(folder / "run.lock", os.O_RDONLY)
    except (OSError, BadData):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return None if (folder / "run.lease").exists() else False
    finally:
        os.close(descriptor)


def place(folder: Path, held: int) -> Path | None:
    """Where a folder is now whose `run.lock` is open as `held`; None where that file is gone, or nobody knows."""
    for path in (folder / "run.lock", Path(os.path.realpath(f"/proc/self/fd/{held}"))):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(held), os.lstat(path)):
                return path.parent
    return None


@contextmanager
def holding(folder: Path, *, flock: Callable[[int, int], None] = fcntl.flock) -> Iterator[int]:
    """Holds the lock inside the block, which gets its descriptor. Raises Locked, which names the process that holds it,
    CannotWrite, and BadData."""
    path = folder / "run.lock"
    try:
        descriptor = storage.open_file(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise storage.cannot_write(path, 0, error) from error
    _held.add(descriptor)
    claim = json.dumps({**this_process(), "since": time.time()}).encode()
    leased = False
    try:
        if _take_flock(descriptor, folder, flock):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, claim, 0)
        else:
            _take_lease(folder, claim)
            leased = True
        yield descriptor
    finally:
        if leased and _content(folder / "run.lease") == claim:
            os.unlink(folder / "run.lease")
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def renew(folder: Path) -> None:
    """Renews the lease, where there is one."""
    with contextlib.suppress(OSError):
        os.utime(folder / "run.lease")


def _take_flock(descriptor: int, folder: Path, flock: Callable[[int, int], None]) -> bool:
    """True when this process has the lock, False where the file system has no flock. Raises Locked."""
    started = time.monotonic()
    while True:
        try:
            flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            dying = is_alive(_holder(folder)) is False
            if time.monotonic() - started > (DYING_S if dying else READER_S):
                raise _locked(folder) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise storage.cannot_write(folder / "run.lock", 0, error) from error
            return False
        else:
            return True


def _take_lease(folder: Path, claim: bytes) -> None:
    """Creates the lease by a hard link, which appears whole, or fails if there is one already. Raises Locked."""
    lease, ours = folder / "run.lease", folder / f".run.lease.{socket.gethostname()}.{os.getpid()}.claim"
    try:
        ours.write_bytes(claim)
        old = _content(lease)
        if old is not None:
            # Both times come from the file system, so the clocks of two machines need not agree.
            age = ours.stat().st_mtime - lease.stat().st_mtime
            alive = is_alive(_holder(folder))
            if alive or (alive is None and age < LEASE_S):
                raise _locked(folder)
            stale = ours.with_suffix(".stale")
            os.rename(lease, stale)
            taken = _content(stale)
            if taken != old:  # another process was quicker, and this is its fresh lease
                os.link(stale, lease)
            os.unlink(stale)
        os.link(ours, lease)
    except (FileExistsError, FileNotFoundError):
        raise _locked(folder) from None
    except OSError as error:
        raise storage.cannot_write(lease, len(claim), error) from error
    finally:
        ours.unlink(missing_ok=True)


def _locked(folder: Path) -> Locked:
    who = _holder(folder)
    begun = who.get("since", 0)
    since = time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(begun)) if 0 < begun < 2**33 else ""
    job = f" (Slurm job {who['slurm_job']})" if who.get("slurm_job") else ""
    name = f"pid {who.get('pid', '?')} on {who.get('host', 'a host that has not said its name')}{job}{since}"
    stop = f"stop it with: scancel {who['slurm_job']}" if job else f"stop it with: kill {who.get('pid', '<pid>')}"
    return Locked(
        f"another process trains in {folder}: {name}",
        hint=f"wait for it, {stop}, or start in another directory with hydra.run.dir=<directory>",
    )


def _holder(folder: Path) -> dict[str, Any]:
    return storage.read_json(folder / "run.lease", KINDS) or storage.read_json(folder / "run.lock", KINDS) or {}


def _content(path: Path) -> bytes | None:
    try:
        return storage.read_whole(path)
    except FileNotFoundError:
        return None


def _start(pid: int) -> str:
    """When the process started, in clock ticks since boot; "" where the system does not say, "dead" for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # the name may hold anything but )
    except OSError:
        return ""
    return "dead" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(os.path.realpath(one.path) == str(path) for one in os.scandir(f"/proc/{pid}/fd"))
    return False


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
