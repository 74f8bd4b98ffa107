"""Prints a free port for the ranks' rendezvous. The batch script runs this on the first node, where rank 0 listens."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

# Below the ephemeral ports of Linux (32768 and up), which outgoing connections may use.
PORTS = range(20000, 32000)
TRIES = 100


def free_port(ports: Sequence[int] = PORTS) -> int | None:
    """A port that nobody listens on; random, so that jobs which start together do not choose the same one."""
    for port in random.SystemRandom().sample(ports, min(TRIES, len(ports))):
        try:
            socket.create_server(("", port)).close()
        except OSError:
            continue
        return port
    return None


if __name__ == "__main__":
    print(free_port() or "")  # noqa: T201  # the batch script reads it
