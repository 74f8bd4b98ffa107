"""Images a second that the data give with so many workers, and that the training step takes."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from plainloop.config.durations import clock_of
from plainloop.config.parts import build_data, make_part
from plainloop.config.targets import locate
from plainloop.config.types import signature_of
from plainloop.run.probe.parts import Probe, Tell
from plainloop.system.processes import cpus_of_rank

FOR_S = 4.0  # of each measurement, after the batches that workers hold ready at first


def has_workers(config: Mapping[str, Any]) -> bool:
    """Whether the data decode images in worker processes."""
    return "sample_transforms" in signature_of(locate(config["data"]["_target_"], config["plugins"])).parameters


def step_images_per_s(config: Mapping[str, Any]) -> float:
    """What the training step takes, on the first batch."""
    probe = Probe.of(config)
    return probe.images_per_s(probe.batch(), for_s=2.0)


def numbers_to_try(most: int | None) -> list[int]:
    """0, 1, 2, 4, ... up to the CPUs that this process may use, or to `most`."""
    top = cpus_of_rank() if most is None else most
    return [0, *sorted({min(2**i, top) for i in range(top.bit_length() + 1)} - {0})]


def measure(config: Mapping[str, Any], numbers: list[int], *, tell: Tell) -> Iterator[tuple[int, float]]:
    """A number of workers and the images a second that they give, with the run's augmentations in the workers."""
    for number in numbers:
        tell(f"{number} workers")
        data: dict[str, Any] = config["data"] | {"num_workers": number}
        for split in ("train", "val", "test"):
            if "num_workers" in (data.get(split) or {}):
                data[split] = data[split] | {"num_workers": number}
        own = {**config, "data": data}
        source, _ = build_data(own, functools.partial(make_part, own, clock_of(own)))
        batches = source.train_batches(0, 10**6, config["seed"])
        with contextlib.closing(batches):  # type: ignore[type-var]
            for _ in range(1 + number * config["data"].get("prefetch", 2)):
                next(batches)
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < FOR_S:
                count += len(next(batches)["index"])
            yield number, count / (time.perf_counter() - began)
