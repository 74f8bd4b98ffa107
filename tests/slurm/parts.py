"""Parts of the jobs of these tests: steps that take long enough to be disturbed, and that fail on demand."""

from __future__ import annotations

import os
import time

from plainloop.contracts import Batch


def slow(batch: Batch, step: int, *, seconds: float) -> Batch:
    """Sleeps: two cores are enough for many jobs then."""
    time.sleep(seconds)
    return batch


def fail(batch: Batch, step: int, *, rank: int, at: int, unless: str = "") -> Batch:
    """Raises in one rank, before the step after `at`, until the cause is mended: the file `unless` is there."""
    if step >= at and int(os.environ.get("RANK", 0)) == rank and not (unless and os.path.exists(unless)):
        raise ZeroDivisionError(f"rank {rank} was told to fail at step {at}")
    return batch


def die(batch: Batch, step: int, *, rank: int, at: int) -> Batch:
    """Ends one rank's process without a word, as the out-of-memory killer does."""
    if step >= at and int(os.environ.get("RANK", 0)) == rank:
        os.kill(os.getpid(), 9)
    return batch
