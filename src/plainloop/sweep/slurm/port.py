"""A port where the ranks can meet. The batch script runs this on the job's first node, where rank 0 will listen."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

# Below Linux' ephemeral ports (32768 and up), which outgoing connections may hold.
PORTS = range(20000, 32000)
TRIES = 100


def free_port(ports: Sequence[int] = PORTS) -> int | None:
    """One that nobody listens on now; at random, so that jobs which start together do not choose the same."""
    for port in random.SystemRandom().sample(ports, min(TRIES, len(ports))):
        try:
            socket.create_server(("", port)).close()
        except OSError:
            continue
        return port
    return None


if __name__ == "__main__":
    print(free_port() or "")  # noqa: T201  # the batch script reads it
