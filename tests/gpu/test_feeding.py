"""What feeds a GPU: batches from workers and caches arrive whole, and their copies run beside the kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plainloop.loop import normalize
from tests.harness import pictures
from tests.harness.gpu import DEVICES, batches_written_to, in_fork
from tests.harness.runs import train

WAYS: dict[str, tuple[str, ...]] = {
    "no workers": ("data.num_workers=0",),
    "two workers": ("data.num_workers=2",),
    "a cache in memory": ("data.num_workers=1", "data.cache=ram"),
    "a cache on disk": ("data.num_workers=1", "data.cache=disk", "data.cache_dir=cache"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.write_pictures(tmp_path_factory.mktemp("photos"))


def arrived(folder: Path, photos: Path, *more: str) -> list[str]:
    """Hashes of the batches of a run on photographs, in order, as they were on the device."""
    folder.mkdir()
    log = folder / "batches"
    run = (*pictures.command(photos), "trainer.duration=9st", "trainer.devices=1", *more)
    ended = train(folder, *run, prepare=lambda: batches_written_to(log))
    assert ended.code == 0, ended.err
    return log.read_text().splitlines()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> list[str]:
    return arrived(tmp_path_factory.mktemp("expected") / "run", photos, "device=cpu", "data.num_workers=0")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_batches_arrive_however_they_are_fed(
    way: str, device: str, expected: list[str], photos: Path, tmp_path: Path
) -> None:
    assert arrived(tmp_path / "run", photos, f"device={device}", *WAYS[way]) == expected


def test_another_seed_brings_other_batches(expected: list[str], photos: Path, tmp_path: Path) -> None:
    """The control."""
    assert arrived(tmp_path / "run", photos, "device=cpu", "data.num_workers=0", "seed=1") != expected


def fed_beside_kernels(device_name: str, *, num: int, size: int) -> bool:
    """Whether the sums of all batches are right, with much work in the queue and little memory to reuse."""
    device = torch.device(device_name, 0) if device_name == "cuda" else torch.device("cpu")
    work = torch.randn(size, size, device=device)
    sums, expected = [], []
    for number in range(num):
        host = torch.full((size, 64), number, dtype=torch.uint8)
        expected.append(number * host.numel())
        if device_name == "cuda":
            host = host.pin_memory()
        batch = normalize.to_device({"image": host}, device)
        del host  # its pinned memory may be taken for the next batch as soon as the copy has ended
        work = work @ work / size
        sums.append(batch["image"].sum(dtype=torch.int64))
    return torch.stack(sums).tolist() == expected


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_whole_though_their_memory_is_used_again(device: str) -> None:
    num, size = (4, 32) if device == "cpu" else (200, 4096)
    assert in_fork(lambda: fed_beside_kernels(device, num=num, size=size))


def copy_beside_kernels() -> tuple[float, float]:
    """Milliseconds until a batch has arrived, and until the kernels are done that were queued before it."""
    device = torch.device("cuda", 0)
    work = torch.randn(8192, 8192, device=device)
    host = {"image": torch.zeros(256, 3, 224, 224, dtype=torch.uint8).pin_memory()}
    normalize.to_device(host, device)
    work @ work
    torch.cuda.synchronize()
    start, kernels, copied = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    start.record()
    for _ in range(20):
        work = work @ work / 8192
    kernels.record()
    normalize.to_device(host, device)
    copied.record(normalize._copies_to(device))
    torch.cuda.synchronize()
    return start.elapsed_time(copied), start.elapsed_time(kernels)


@pytest.mark.gpu
def test_a_copy_from_pinned_memory_does_not_wait_for_the_kernels_before_it() -> None:
    arrived_ms, kernels_ms = in_fork(copy_beside_kernels)
    assert arrived_ms < 0.5 * kernels_ms
