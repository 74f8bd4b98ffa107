"""The process group: how the ranks of a run find one another, and what it says when one of them is gone.

Rank and world size are read from the environment (see `ranks`). Ranks of one machine talk over loopback only, and
nothing that is received is unpickled.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from plainloop.distributed import ranks
from plainloop.errors import BadConfig, LostPeer

TIMEOUT_S = 600.0  # torch's own for NCCL; `trainer.timeout_s` decides in a run
PORT_S = 20.0  # seconds in which an earlier attempt must have left the same port

# What backends say when another rank is gone; gloo's errors are plain RuntimeErrors.
LOST_PEER_MESSAGES = (
    *("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout"),
    "Application timeout caused pair closure",
)


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. On CUDA each rank has its own: local rank modulo visible devices.

    Raises ValueError for a device that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; type device=cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps, but this machine has none; type device=cpu")
    if name == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)


@contextmanager
def process_group(device_name: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Joins the ranks for the time of the block; does nothing for one process. Collective.

    Every rank has its own CUDA device. Raises LostPeer, here and out of the block, when other ranks do not come, have
    gone, or do not answer for `timeout_s`.
    """
    if ranks.world_size() == 1:
        yield
        return
    cuda = device_name in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if ranks.on_one_machine():
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo" if sys.platform == "linux" else "lo0")
    timeout = timedelta(seconds=timeout_s)
    with lost_peers_named(timeout_s):
        store = _store(timeout)
        place = {} if store is None else {"store": store, "rank": ranks.rank(), "world_size": ranks.world_size()}
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout, **place)  # type: ignore[arg-type]
        ended = False
        try:
            yield
            ended = True
        finally:
            if ended or not cuda:  # NCCL would wait for ranks that are gone; the end of the process closes it as well
                dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says no more than that other ranks are gone or do not answer."""
    text = str(error)
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(part in text for part in LOST_PEER_MESSAGES)
    )


@contextmanager
def lost_peers_named(timeout_s: float) -> Iterator[None]:
    """Turns a backend's error about other ranks into LostPeer."""
    try:
        yield
    except RuntimeError as error:
        if ranks.world_size() == 1 or not is_lost_peer(error):
            raise
        if "Duplicate GPU" in str(error):
            hint = "at most as many processes on a machine as it has GPUs: --nproc-per-node, --ntasks-per-node"
            raise BadConfig("two ranks have the same GPU, which NCCL refuses", hint=hint) from error
        first = str(error).splitlines()[0]
        late = any(word in first for word in ("Timed out", "timed out", "Timeout", "timeout"))
        what = f"did not answer for {timeout_s:g} s (trainer.timeout_s)" if late else "have gone"
        raise LostPeer(f"other ranks {what}: {first}", hint="look at what the other ranks say") from error


def _store(timeout: timedelta) -> dist.Store | None:
    """Where the ranks find each other: a file, or a port of the loopback; None leaves it to torch (torchrun's own,
    several machines)."""
    folder = ranks.rendezvous_folder()
    port = os.environ.get("MASTER_PORT")
    if port is None and folder is not None:
        return dist.FileStore(str(folder / "store"), ranks.world_size())
    if port is None or not ranks.on_one_machine() or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    listening = _listen(int(port)) if ranks.rank() == 0 else None  # torch itself would listen on every interface
    return dist.TCPStore(
        "127.0.0.1",
        int(port),
        ranks.world_size(),
        ranks.rank() == 0,
        timeout,
        wait_for_workers=False,
        master_listen_fd=listening,
    )


def _listen(port: int) -> int:
    """A listening socket of our own. Raises BadConfig when another process keeps the port."""
    until = time.monotonic() + PORT_S
    while True:
        ours = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ours.bind(("127.0.0.1", port))
            ours.listen(ranks.world_size())
        except OSError as error:
            ours.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise BadConfig(
                    f"MASTER_PORT={port} cannot be used: {error.strerror}",
                    hint="leave MASTER_PORT out: the ranks find each other without it",
                ) from error
            time.sleep(0.2)
        else:
            return ours.detach()
