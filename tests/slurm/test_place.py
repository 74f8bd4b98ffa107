"""Where the ranks of a job meet."""

import socket

from plainloop.sweep.slurm.port import free_port


def test_nobody_listens_on_the_port_that_is_chosen() -> None:
    with socket.create_server(("", 0)) as taken, socket.create_server(("", 0)) as other:
        ports = [taken.getsockname()[1], other.getsockname()[1]]
        assert free_port(ports) is None
        other.close()
        assert {free_port(ports) for _ in range(20)} == {ports[1]}
