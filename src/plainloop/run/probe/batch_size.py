"""The largest batch that fits: training steps at sizes that double, with what each takes of memory and time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plainloop.run.backend import OUT_OF_MEMORY
from plainloop.run.probe.parts import Probe, Tell, tiled

KEPT_FREE = 0.1  # of the memory: other programs, evaluation and a longer batch of the data need some


@dataclass(frozen=True)
class Measured:
    size: int
    images_per_s: float
    num_bytes: int | None  # at the highest point of a step; None where it cannot be measured
    fits: bool = True


def measure(config: Mapping[str, Any], *, most: int, tell: Tell) -> Iterator[Measured]:
    """Sizes 8, 16, ... up to the first that does not fit, or `most`. Then one between, where one did not fit.

    On a CPU nothing is tried that would need more than the free memory by what the sizes before it took.
    """
    probe = Probe.of(config).with_largest_images()
    batch, parts = probe.batch(), config["trainer"]["accumulate"]
    cuda, taken = probe.trainer.device.type == "cuda", list[Measured]()
    size = 8 * parts

    def tried(size: int) -> Measured:
        tell(f"batch {size}")
        if not cuda and _would_be(taken, size) > _cpu_limit():
            return Measured(size, 0.0, None, fits=False)
        found = _measure_cuda(probe, batch, size) if cuda else _measure_cpu(probe, batch, size)
        taken.append(found)
        return found

    while size <= most:
        found = tried(size)
        yield found
        if not found.fits:
            between = size * 3 // 4 // parts * parts
            if between > size // 2:
                yield tried(between)
            return
        size *= 2


def _measure_cuda(probe: Probe, batch: dict[str, Any], size: int) -> Measured:
    device = probe.trainer.device
    torch.cuda.reset_peak_memory_stats(device)
    try:
        speed = probe.images_per_s(tiled(batch, size))
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        probe.state.optimizer.zero_grad()
        probe.state.window.clear()
        torch.cuda.empty_cache()
        return Measured(size, 0.0, None, fits=False)
    return Measured(size, speed, torch.cuda.max_memory_allocated(device))


def _measure_cpu(probe: Probe, batch: dict[str, Any], size: int) -> Measured:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest point is counted anew
    try:
        speed = probe.images_per_s(tiled(batch, size))
    except RuntimeError as error:
        if not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        return Measured(size, 0.0, None, fits=False)
    return Measured(size, speed, _of_process("VmHWM"))


def _would_be(taken: list[Measured], size: int) -> float:
    """Bytes of this process with a batch of `size`, on the line through the last two sizes; 0 where not known."""
    known = [found for found in taken if found.num_bytes is not None][-2:]
    if len(known) < 2:
        return 0.0
    (first, second) = ((found.size, found.num_bytes or 0) for found in known)
    slope = max(0.0, (second[1] - first[1]) / (second[0] - first[0]))
    return second[1] + slope * (size - second[0])


def _cpu_limit() -> float:
    """Bytes that this process may take in all: its own and most of what is free, as the system and cgroups say."""
    own, free = _of_process("VmRSS"), _field(Path("/proc/meminfo"), "MemAvailable")
    if own is None or free is None:
        return float("inf")
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        allowed = int((group / "memory.max").read_text())
        free = min(free, allowed - int((group / "memory.current").read_text()))
    return own + free * (1 - KEPT_FREE)


def _of_process(name: str) -> int | None:
    return _field(Path("/proc/self/status"), name)


def _field(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
