"""Batch size and workers of each split: the common settings, and those that a split changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from plainloop.contracts import Split
from plainloop.system.processes import cpus_of_rank

INHERIT: Mapping[str, Any] = MappingProxyType({})  # a split with the shared settings

WORKERS_PER_GPU = 4  # a rule of thumb: with fewer the GPU waits for data, with more the workers wait for one another


@dataclass(frozen=True)
class Loader:
    """One split's settings, complete."""

    batch_size: int  # global
    num_workers: int | Literal["auto"]  # processes of each rank
    prefetch: int = 2  # batches that each worker holds ready
    batch_size_per_device: int | None = None  # of val and test only; replaces batch_size there

    def processes(self) -> int:
        return workers_for_this_rank() if self.num_workers == "auto" else self.num_workers

    def eval_batch(self, world_size: int) -> int:
        """Samples of this rank in one evaluation batch."""
        return self.batch_size_per_device or max(1, self.batch_size // world_size)


def loaders(
    shared: Loader,
    *,
    train: Mapping[str, Any] = INHERIT,
    val: Mapping[str, Any] = INHERIT,
    test: Mapping[str, Any] = INHERIT,
) -> dict[Split, Loader]:
    """Each split's settings: its own, and where it has none (or null) the shared ones.

    >>> loaders(Loader(8, 4), val={"batch_size": 6, "num_workers": 1})["val"].num_workers
    1

    Raises ValueError for an unknown key and for an impossible value.
    """
    own: dict[Split, Mapping[str, Any]] = {"train": train, "val": val, "test": test}
    known = [field.name for field in fields(Loader)]
    check(shared, "data")
    resolved = {}
    for split, settings in own.items():
        for key in settings.keys() - set(known):
            raise ValueError(f"data.{split}.{key} is not known; its keys are {', '.join(known)}")
        resolved[split] = replace(shared, **{key: value for key, value in settings.items() if value is not None})
        check(resolved[split], f"data.{split}")
    if per_device := resolved["train"].batch_size_per_device:
        raise ValueError(
            f"data.train.batch_size_per_device={per_device} is for val and test only; "
            f"type data.batch_size_per_device={per_device}, and data.val.batch_size_per_device=<n> for validation"
        )
    return resolved


def eval_splits(train_eval_samples: int) -> tuple[Split, ...]:
    """What each evaluation measures: validation, and a slice of the training samples unless its size is 0."""
    if train_eval_samples < 0:
        raise ValueError(f"data.train_eval_samples={train_eval_samples} must be at least 0; 0 switches it off")
    return ("val", "train") if train_eval_samples else ("val",)


def check(loader: Loader, place: str) -> None:
    least = {"batch_size": 1, "num_workers": 0, "prefetch": 1, "batch_size_per_device": 1}
    also = {"num_workers": "auto", "batch_size_per_device": None}
    for key, lowest in least.items():
        value = getattr(loader, key)
        if key in also and value == also[key]:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            or_auto = " or auto" if key == "num_workers" else ""
            raise ValueError(f"{place}.{key}={value} must be a whole number of at least {lowest}{or_auto}")


def workers_for_this_rank() -> int:
    """Four, or this rank's share of the CPUs if that is less."""
    return min(WORKERS_PER_GPU, cpus_of_rank())
