"""Handwritten digits that come with scikit-learn: 1797 images of 8 x 8 (https://archive.ics.uci.edu/dataset/80)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.images import channel_statistics, example_batch
from plainloop.data.loaders import INHERIT, Loader, check_settings, loaders
from plainloop.errors import BadData

VAL_FRACTION = 0.2
MEAN, STD = (0.3053,), (0.3759,)


class Digits:
    """Fixed stratified split, 1438 to train on and 359 to validate on; held on the device.

    Args:
        num_workers: taken so that one command fits every source; a set in memory needs no workers.
    """

    changes_no_result = ("*num_workers",)

    def __init__(
        self,
        *,
        batch_size: int,
        num_workers: int | Literal["auto"] = 0,
        train_eval_samples: int = 2000,
        device: str = "auto",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        train: Mapping[str, Any] = INHERIT,
        val: Mapping[str, Any] = INHERIT,
        test: Mapping[str, Any] = INHERIT,
    ) -> None:
        import numpy as np
        import torch

        from plainloop.data.loading.stratify import stratified_split
        from plainloop.data.memory import InMemory

        table = np.loadtxt(_file(), delimiter=",")  # 64 pixels of 0 to 16, then the digit
        images = torch.from_numpy(np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        kept, held_out = map(torch.from_numpy, stratified_split(labels.numpy(), fraction=VAL_FRACTION))
        self._memory = InMemory(
            {"train": (images[kept], labels[kept]), "val": (images[held_out], labels[held_out])},
            loaders=loaders(Loader(batch_size, num_workers), train=train, val=val, test=test),
            device=device,
            train_eval_samples=train_eval_samples,
        )
        self.batch_size = self._memory.batch_size

    @classmethod
    def facts(cls, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, **settings: Any) -> Facts:
        check_settings(settings)
        mean, std = channel_statistics(mean, std, channels=1)
        return Facts(1438, 359, tuple("0123456789"), (1, 8, 8), mean, std)

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return example_batch(facts, batch_size)

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        return self._memory.train_batches(start, stop, seed)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        return self._memory.eval_batches(split)


def _file() -> Path:
    """Where scikit-learn keeps them. Looked up, not imported: that takes longer than to train. Raises BadData."""
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            return path
    raise BadData("data=digits: scikit-learn, which brings the digits, is not installed", hint="type: make setup")
