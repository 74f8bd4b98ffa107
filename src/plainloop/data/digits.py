"""Handwritten digits that come with scikit-learn: 1797 images of 8 x 8 (https://archive.ics.uci.edu/dataset/80)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.small_set import SmallSet
from plainloop.errors import BadData

if TYPE_CHECKING:
    from torch import Tensor

VAL_FRACTION = 0.2
TRAIN_COUNTS = (142, 146, 142, 146, 145, 146, 145, 143, 139, 144)  # images of each digit
VAL_COUNTS = (36, 36, 35, 37, 36, 36, 36, 36, 35, 36)


class Digits(SmallSet):
    """Fixed stratified split: 1438 images to train on, 359 to validate on; held on the device."""

    def known(self) -> Facts:
        mean, std = self.statistics((0.3053,), (0.3759,))
        return Facts(sum(TRAIN_COUNTS), sum(VAL_COUNTS), tuple("0123456789"), (1, 8, 8), mean, std, TRAIN_COUNTS)

    def val_counts(self) -> Sequence[int]:
        return VAL_COUNTS

    def read(self) -> Mapping[Split, Batch]:
        import numpy as np
        import torch

        from plainloop.data.loading.stratify import stratified_split

        table = np.loadtxt(_file(), delimiter=",")  # 64 pixels of 0 to 16, then the digit
        images = torch.from_numpy(np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        kept, held_out = map(torch.from_numpy, stratified_split(labels.numpy(), fraction=VAL_FRACTION))
        rows: dict[Split, Tensor] = {"train": kept, "val": held_out}
        return {split: {"image": images[part], "label": labels[part]} for split, part in rows.items()}


def _file() -> Path:
    """Where scikit-learn keeps them. It is not imported, which takes longer than to train. Raises BadData."""
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            return path
    raise BadData("data=digits: scikit-learn, which brings the digits, is not installed", hint="type: make setup")
