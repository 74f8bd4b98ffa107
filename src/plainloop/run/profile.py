"""debug=profile: what a few steps of training spend their time on, by torch's profiler."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

from plainloop.contracts import Batch
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.system import storage

log = logging.getLogger("plainloop")

FOLDER = "profile"
BEFORE, WARMUP = 10, 3  # steps at full speed, which are timed; then steps that the profiler sees and does not keep
SHOWN = 10  # operations
NAME_WIDTH = 44


class Profile:
    """To be told of every step. Writes profile/trace.json and profile/operations.txt once it has its steps.

    The trace opens in chrome://tracing and in https://ui.perfetto.dev. Rank 0 alone has one.
    """

    def __init__(self, folder: Path, steps: int, device: torch.device) -> None:
        self.folder, self.steps = folder / FOLDER, steps
        self.on_gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_gpu else [])]
        plan = schedule(wait=BEFORE, warmup=WARMUP, active=steps, repeat=1)
        self._profiler = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
        self._began: list[float] = []  # each step so far

    def next_step(self) -> None:
        """Called at the beginning of every step."""
        if not self._began:
            self._profiler.start()
        elif len(self._began) <= BEFORE + WARMUP + self.steps:
            self._profiler.step()
        self._began.append(time.perf_counter())

    def _write(self, found: Any) -> None:
        storage.make_folder(self.folder)
        found.export_chrome_trace(str(self.folder / "trace.json"))
        lines = [*self._operations(found), "", *self._steps()]
        storage.write_whole(self.folder / "operations.txt", ("\n".join(lines) + "\n").encode())
        for line in (*lines, f"profile: {self.folder / 'trace.json'}, for chrome://tracing or ui.perfetto.dev"):
            log.info(line)

    def _operations(self, found: Any) -> list[str]:
        name = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        times = [(getattr(event, name), event.count, event.key) for event in found.key_averages()]
        times = sorted((one for one in times if not one[2].startswith("ProfilerStep")), reverse=True)
        whole = sum(microseconds for microseconds, *_ in times) or 1.0
        where = "the GPU" if self.on_gpu else "the CPU"
        head = f"the {SHOWN} dearest operations on {where}, per step, from {self.steps} steps"
        rows = [
            f"{key[: NAME_WIDTH - 1]:<{NAME_WIDTH}}{calls / self.steps:>8.1f}{us / 1000 / self.steps:>11.3f}"
            f"{us / whole:>8.1%}"
            for us, calls, key in times[:SHOWN]
        ]
        return [head, f"{'operation':<{NAME_WIDTH}}{'calls':>8}{'ms':>11}{'share':>8}", *rows]

    def _steps(self) -> list[str]:
        """The host's time from one step to the next; the first one, which prepares much, is left out."""
        apart = [1000 * (after - before) for before, after in zip(self._began, self._began[1:])]
        free, profiled = apart[1 : BEFORE - 1], apart[BEFORE + WARMUP :]
        return [
            f"from one step to the next, {name}: median {statistics.median(times):.2f} ms, "
            f"least {min(times):.2f}, most {max(times):.2f}"
            for name, times in (("at full speed", free), ("with the profiler", profiled))
            if times
        ]


@dataclass(frozen=True, kw_only=True)
class ProfiledTrainer(Trainer):
    profile: Profile

    def update(self, model: nn.Module, state: TrainState, batch: Batch) -> bool:
        self.profile.next_step()
        return super().update(model, state, batch)
