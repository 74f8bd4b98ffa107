"""The same batch again and again, to see whether a model can learn at all."""

from __future__ import annotations

from plainloop.contracts import Batch


class FirstBatch:
    """Returns its first batch at every step. Only for debugging: a run that is resumed repeats another batch."""

    def __init__(self) -> None:
        self._first: Batch | None = None

    def __call__(self, batch: Batch, step: int) -> Batch:
        if self._first is None:
            self._first = {name: tensor.clone() for name, tensor in batch.items()}
        return dict(self._first)
