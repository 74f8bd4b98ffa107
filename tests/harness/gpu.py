"""What the tests of a GPU share. CUDA is only used in forks: the test's own process could fork no more after it."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainloop.loop import augmented
from tests.harness import inject
from tests.harness.children import Child

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", CUDA]

# Enough work for many kernels on a GPU, little enough for seconds on a CPU.
SIZE = {
    "cpu": ("model.width=4", "data.batch_size=240"),
    "cuda": ("model=resnet20", "data.batch_size=240"),
}
FAST = {"fast": ("trainer=fast",), "fast in micro-batches": ("trainer=fast", "trainer.accumulate=2")}
STEPS = ("trainer.duration=10st", "trainer.log_every=3", "trainer.save_every=2st", "scheduler=constant")


def command(device: str, *more: str) -> tuple[str, ...]:
    """Ten steps on digits, in `run`: five an epoch; the log, a save and the end of an epoch fall on different steps."""
    return (*SIZE[device], *STEPS, "optimizer=sgd", f"device={device}", "trainer.devices=1", "hydra.run.dir=run", *more)


def in_fork(work: Callable[[], Any]) -> Any:
    """What `work` gives, in a process of its own. Fails with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result"
        ended = Child(lambda: path.write_bytes(pickle.dumps(work()))).wait()
        assert ended.code == 0, ended.err
        return pickle.loads(path.read_bytes())


def batches_written_to(path: Path) -> None:
    """Has this process add a line for each training batch: a hash of what has arrived on the device."""
    move = augmented.to_device

    def recording(batch: Any, device: Any) -> Any:
        moved = move(batch, device)
        digest = hashlib.sha256()
        for name in sorted(moved):
            digest.update(moved[name].cpu().numpy().tobytes())
        with path.open("a") as file:
            file.write(f"{digest.hexdigest()}\n")
        return moved

    augmented.to_device = recording


def augmented_written_to(path: Path) -> None:
    """The same for each batch that is trained on, with its augmentations."""

    def record(step: int, batch: Any) -> None:
        digest = hashlib.sha256(batch["image"].cpu().numpy().tobytes() + batch["label"].cpu().numpy().tobytes())
        with path.open("a") as file:
            file.write(f"{step} {digest.hexdigest()}\n")

    inject.before_updates(record)
