"""One cluster for the session, in a folder whose name leaves room for Slurm's sockets."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import lab as labs
from tests.slurm.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with labs.cluster(Path(f"/tmp/slurm-{os.getpid()}")) as made:
        yield made
