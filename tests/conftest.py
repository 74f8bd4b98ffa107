"""Makes tests alike on every machine: one thread a process, no network, nothing that a launcher or a person left."""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and inherited by every process that a test starts.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking for a GPU must not keep this process from forking
# This tree's code in those processes, too, wherever plainloop may be installed.
SRC = str(Path(__file__).parent.parent / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SRC, os.environ.get("PYTHONPATH")]))
PLACE = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
for name in set(os.environ):
    if name in PLACE | {"COLUMNS", "LINES"} or name.startswith(("SLURM_", "TORCHELASTIC_", "WANDB_", "HYDRA_")):
        del os.environ[name]

_connect = socket.socket.connect
_HERE = {"localhost", "127.0.0.1", "::1", socket.gethostname()}


def _connect_here(self: socket.socket, address: Any) -> None:
    """Refuses what is not on this machine, so that a test which needs the network fails where there is one, too."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _HERE:
        raise OSError(f"tests run offline, and this one connects to {address[0]}")
    _connect(self, address)


socket.socket.connect = _connect_here


def _clear_hydra() -> None:
    if "hydra.core.global_hydra" in sys.modules:
        sys.modules["hydra.core.global_hydra"].GlobalHydra.instance().clear()
    if "hydra.core.hydra_config" in sys.modules:  # its `clear` wants a config that is there
        sys.modules["hydra.core.hydra_config"].HydraConfig.instance().cfg = None


@pytest.fixture(autouse=True)
def no_hydra_is_left_over() -> Iterator[None]:
    """Hydra holds one composition per process; neither collecting nor another test leaves theirs to this one."""
    _clear_hydra()
    yield
    _clear_hydra()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked `own_process` runs in a fork: a process that has called torch.export starts threads with its next
    backward pass, and none of its forks can learn any more.
    """
    if not pyfuncitem.get_closest_marker("own_process"):
        return None
    from tests.harness.children import Child

    screens = sys.stdout, sys.stderr

    def test() -> None:
        sys.stdout, sys.stderr = screens  # those that `capsys` reads
        pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})

    ended = Child(test).wait()
    assert ended.code == 0, ended.err
    return True


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[Mapping[str, int]], Path]:
    """{"train/cat": 3} writes three images of different sizes into root/train/cat; returns the root."""
    import numpy as np
    from PIL import Image

    def write(folders: Mapping[str, int]) -> Path:
        noise = np.random.default_rng(0)
        for folder, number in folders.items():
            (tmp_path / folder).mkdir(parents=True)
            for i in range(number):
                pixels = noise.integers(0, 256, (20 + 3 * i % 17, 24 + 5 * i % 13, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / f"{i:03}.png")
        return tmp_path

    return write
