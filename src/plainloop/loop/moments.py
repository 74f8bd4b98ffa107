"""The parts of a step: from `fetched` to `prepared` its batch is made ready, from `update` to `updated` the optimizer
works."""

from __future__ import annotations

import time

import torch

PARTS = {"prepared": ("fetched", "time/prepare_s"), "updated": ("update", "time/optimizer_s")}


class HostMoments:
    """Sums over the window by the host's clock, which is right where the host itself computes."""

    def restart(self) -> None:
        self._sums = {key: 0.0 for _, key in PARTS.values()}
        self._at = dict.fromkeys(("fetched", "update"), 0.0)

    def mark(self, moment: str) -> None:
        now = time.perf_counter()
        if moment in PARTS:
            start, key = PARTS[moment]
            self._sums[key] += now - self._at[start]
        else:
            self._at[moment] = now

    def parts(self, steps: int) -> dict[str, float]:
        """Seconds of a step."""
        return {key: seconds / steps for key, seconds in self._sums.items()}


class StreamMoments:
    """On CUDA: of the window's last step alone, by events in the stream of its kernels. No wait: they are read where
    the host has waited for the device already."""

    def __init__(self) -> None:
        self._events = {
            name: torch.cuda.Event(enable_timing=True) for name in ("fetched", "prepared", "update", "updated")
        }

    def restart(self) -> None:
        self._marked: set[str] = set()

    def mark(self, moment: str) -> None:
        if moment == "fetched":
            self._marked.clear()
        self._marked.add(moment)
        self._events[moment].record()

    def parts(self, steps: int) -> dict[str, float]:
        """Seconds of the last step; without a part that it did not have, as the update of a skipped step."""
        return {
            key: self._events[start].elapsed_time(self._events[end]) / 1000
            for end, (start, key) in PARTS.items()
            if {start, end} <= self._marked
        }
