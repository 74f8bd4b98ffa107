"""How the benchmarks measure: the contenders take turns, and the result is the median of the ratios of all rounds.

Other programs on the machine slow down blocks that are close in time by about the same factor, which the ratio cancels.
The interval uses only the order of the ratios, so it assumes no distribution.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

Clock = Literal["wall", "cpu"]
Contender = Callable[[int], float]  # trains so many more steps; the seconds that they took

CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Median:
    """A median and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def text(self, form: str = ".3f") -> str:
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def seconds(clock: Clock, work: Callable[[], None], device: torch.device) -> float:
    """The time of `work`, until the last kernel that it started has ended."""
    read = CLOCKS[clock]
    settle(device)
    start = read()
    work()
    settle(device)
    return read() - start


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(
    contenders: dict[str, Contender], *, pairs: int, block_s: float, warm_up: int = 3, until: float = math.inf
) -> tuple[int, dict[str, list[float]]]:
    """The steps of a block, and the seconds per step of each contender in each round; the order changes every round.

    All blocks have the same number of steps: as many as the fastest contender does in `block_s`. After the moment
    `until` of time.monotonic() no further round begins, but two are measured in any case.
    """
    first = {name: run(warm_up) and run(warm_up) / warm_up for name, run in contenders.items()}
    steps = max(1, math.ceil(block_s / min(first.values())))
    steps = max(1, math.ceil(steps * block_s / min(run(steps) for run in contenders.values())))
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(pairs):
        if number >= 2 and time.monotonic() > until:
            break
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        for name in order if number // len(names) % 2 == 0 else reversed(order):
            times[name].append(contenders[name](steps) / steps)
    return steps, times


def ratios(times: dict[str, list[float]], one: str, other: str) -> list[float]:
    return [a / b for a, b in zip(times[one], times[other], strict=True)]


def differences(times: dict[str, list[float]], one: str, other: str) -> list[float]:
    return [a - b for a, b in zip(times[one], times[other], strict=True)]


def median(values: Sequence[float]) -> Median:
    """The median, with the narrowest interval of two sorted values that covers the true median in 95 % of cases.

    For fewer than six values no such interval exists; then it is their whole range.
    """
    ordered, n = sorted(values), len(values)
    below = [math.comb(n, k) / 2**n for k in range(n + 1)]
    cut = max((k for k in range(1, n // 2 + 1) if sum(below[:k]) <= 0.025), default=1)
    return Median(statistics.median(ordered), ordered[cut - 1], ordered[n - cut], n)


def machine(device: torch.device) -> str:
    """One line: processor, cores, versions and load, for which the numbers hold."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return (
        f"{name}, {os.cpu_count()} cores, torch {torch.__version__} with {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, load {load}"
    )


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def timed(clock: Clock, train: Callable[[int], None], device: torch.device) -> Contender:
    """Makes a contender of a function that trains so many steps."""
    return lambda steps: seconds(clock, partial(train, steps), device)
