"""TensorBoard: curves that are live while a run trains, and the settings of a sweep's jobs side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plainloop.loggers.jsonl import read_rows
from plainloop.loggers.overrides import overrides_of
from plainloop.system import storage

FOLDER = "tensorboard"
FLUSH_S = 2  # until what was logged is on disk, for whoever looks on
ALWAYS_SHOWN = ("optimizer.lr", "optimizer.weight_decay", "data.batch_size", "trainer.duration", "seed")
METRIC = "best"  # of the hyperparameters' table: the value of the monitored metric


class TensorBoard:
    """Writes event files into `tensorboard/` of the run: `tensorboard --logdir outputs` shows all runs.

    At each start the files are written again from metrics.jsonl, so that a run that was stopped, killed or put back has
    each point once. In the tab HParams a run has what was typed for it, and its best value.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError("the package tensorboard is not installed; type pip install tensorboard, or logger=jsonl")
        self._writer: Any = None

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Replaces what an earlier attempt has written. Raises CannotWrite."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams import summary_v2 as hparams
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        place = folder / FOLDER
        storage.make_folder(place)
        # A TensorBoard that looks on reads the newest file to its end, and then goes on to ours.
        for old in sorted(place.glob("events.out.tfevents.*"))[:-1]:
            old.unlink()
        try:
            self._writer = EventFileWriter(str(place), flush_secs=FLUSH_S)
        except OSError as error:
            raise storage.cannot_write(place, 0, error) from error
        # Whoever has read an earlier attempt drops all its points here.
        self._writer.add_event(Event(step=0, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))
        shown = shown_settings(folder, config)
        self._add(0, hparams.hparams_pb(shown, trial_id=str(folder.absolute())))
        for row in read_rows(folder / "metrics.jsonl"):
            if row["step"] <= step:
                self.log(int(row.pop("step")), row)
        self._writer.flush()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=key, simple_value=float(value)) for key, value in scalars.items()]
        self._add(step, Summary(value=values))

    def finish(self, summary: Mapping[str, Any]) -> None:
        best = (summary.get("best") or {}).get("value")
        if isinstance(best, float) and math.isfinite(best):
            self.log(int(summary["steps"]), {METRIC: best})
        self._writer.close()

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=summary))


def shown_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, float | bool | str]:
    """What was typed, and the settings that all runs have: the columns of the tab HParams."""
    found: dict[str, Any] = {key: _value(config, key) for key in ALWAYS_SHOWN}
    for override in overrides_of(folder):
        key, _, text = override.lstrip("+").partition("=")
        value = _value(config, key)
        if not key.startswith(("hydra.", "~")):
            found[key] = text if value is None or isinstance(value, Mapping | list) else value
    return {key: _plain(value) for key, value in found.items() if value is not None}


def _plain(value: Any) -> float | bool | str:
    return value if isinstance(value, bool | str) else float(value) if isinstance(value, int | float) else str(value)


def _value(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
