"""Samples that the data could not read: told to the recorder, and to the data on every rank."""

from __future__ import annotations

from typing import cast

from plainloop.contracts import Data, SkipsSamples
from plainloop.distributed import collectives
from plainloop.loop.recorder import Recorder


def report_skipped(data: Data, recorder: Recorder, step: int) -> None:
    """Called before every save, so that what a finished step has skipped is never lost. Collective.

    Raises BadData on all ranks when the data find that it is too much.
    """
    if not hasattr(data, "take_skipped"):
        return
    source = cast(SkipsSamples, data)
    if skipped := [row for rows in collectives.gather(source.take_skipped()) for row in rows]:
        recorder.skipped(step, skipped)
        source.require_few_skipped(skipped)
