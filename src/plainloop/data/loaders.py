"""How each split is loaded: shared settings, and what a split overrides of them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from plainloop.contracts import Split

INHERIT: Mapping[str, Any] = MappingProxyType({})  # a split that overrides nothing

WORKERS_PER_GPU = 4  # the sources' rule of thumb: more wait for one another, fewer leave the GPU waiting


@dataclass(frozen=True)
class Loader:
    """One split's settings, complete."""

    batch_size: int  # global
    num_workers: int | Literal["auto"]  # processes of each rank
    prefetch: int = 2  # batches that each worker holds ready

    def processes(self) -> int:
        return workers_for_this_rank() if self.num_workers == "auto" else self.num_workers


def loaders(
    shared: Loader,
    *,
    train: Mapping[str, Any] = INHERIT,
    val: Mapping[str, Any] = INHERIT,
    test: Mapping[str, Any] = INHERIT,
) -> dict[Split, Loader]:
    """Each split's settings: its own where it has them, else (or where its own is None) the shared ones.

    >>> loaders(Loader(8, 4), val={"batch_size": 6, "num_workers": 1})["val"]
    Loader(batch_size=6, num_workers=1, prefetch=2)

    Raises ValueError for an unknown key and for a number that is none.
    """
    own: dict[Split, Mapping[str, Any]] = {"train": train, "val": val, "test": test}
    known = [field.name for field in fields(Loader)]
    for split, settings in own.items():
        for key in settings.keys() - set(known):
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"did you mean data.{split}.{near[0]}?" if near else f"its keys are {', '.join(known)}"
            raise ValueError(f"data.{split}.{key} is not known; {meant}")
    check(shared, "data")
    resolved = {
        split: replace(shared, **{key: value for key, value in settings.items() if value is not None})
        for split, settings in own.items()
    }
    for split in get_args(Split):
        check(resolved[split], f"data.{split}")
    return resolved


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises what building a source with these settings (the YAML keys of data) would raise about its loaders."""
    shared = {field.name: settings[field.name] for field in fields(Loader) if field.name in settings}
    own = {split: settings[split] for split in get_args(Split) if split in settings}
    loaders(Loader(**({"batch_size": 1, "num_workers": 0} | shared)), **own)


def check(loader: Loader, place: str) -> None:
    for key, value, least in (
        ("batch_size", loader.batch_size, 1),
        ("num_workers", loader.num_workers, 0),
        ("prefetch", loader.prefetch, 1),
    ):
        if key == "num_workers" and value == "auto":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            also = " or auto" if key == "num_workers" else ""
            raise ValueError(f"{place}.{key}={value} must be a whole number of at least {least}{also}")


def workers_for_this_rank() -> int:
    """Four per GPU (each rank has one), and no more than this rank's share of the CPUs that the process may use."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(WORKERS_PER_GPU, granted // ranks_here))
