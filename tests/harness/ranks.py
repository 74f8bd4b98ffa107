"""Ranks as forks of the test's own process: they start in milliseconds, and are as real as any."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DDP imports it when it is built: once here instead of in every fork

from plainloop.distributed import process_group, ranks

LONGEST_S = 90.0

torch.set_num_threads(1)  # the parent forks: it must not have started threads


def gang(meeting: Path, world_size: int, act: Callable[[], Any], *, timeout_s: float = 30.0) -> list[Any]:
    """What `act` gives on each rank of a process group, rank 0's first. Fails with a failed rank's traceback."""

    def joined() -> Any:
        with process_group.process_group("cpu", timeout_s=timeout_s):
            return act()

    return results(meeting, start(meeting, world_size, joined))


def start(meeting: Path, world_size: int, act: Callable[[], Any]) -> list[int]:
    """Forks the ranks; their process ids. Each finds its place in the environment and joins nothing by itself."""
    meeting.mkdir(mode=0o700, parents=True)
    return [fork(meeting, rank, world_size, act) for rank in range(world_size)]


def fork(meeting: Path, rank: int, world_size: int, act: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= dict(zip(ranks.OURS, map(str, (rank, world_size, rank, world_size)), strict=True))
        os.environ[ranks.MEETING] = str(meeting)
        result = act()
        (meeting / f"{rank}.result").write_bytes(pickle.dumps(result))
        code = 0
    except BaseException as error:  # noqa: BLE001  (nothing of a fork may come back into pytest)
        (meeting / f"{rank}.error").write_text("".join(traceback.format_exception(error)))
        code = getattr(error, "code", 1)
    finally:
        os._exit(code)


def results(meeting: Path, pids: list[int]) -> list[Any]:
    codes = wait(pids)
    errors = [path.read_text() for path in sorted(meeting.glob("*.error"))]
    assert codes == [0] * len(pids), f"exit codes {codes}\n" + "\n".join(errors)
    return [pickle.loads((meeting / f"{rank}.result").read_bytes()) for rank in range(len(pids))]


def wait(pids: list[int], *, longest_s: float = LONGEST_S) -> list[int]:
    """Exit codes; what has not ended by then is killed."""
    until = time.monotonic() + longest_s
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[pid] for pid in pids]
