"""metrics.jsonl: what every run logs, one JSON object per line."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plainloop.errors import BadData, CannotWrite
from plainloop.loggers.rows import RowFile
from plainloop.system import storage
from plainloop.system.json_rows import parse_object, wrong_value

logger = logging.getLogger("plainloop")

_NOT_FINITE = ("nan", "inf", "-inf")


class Jsonl:
    """Writes `{"step": 100, "epoch": 1.0, "train/loss": ...}` for each row.

    JSON has no NaN and no infinities: they are the strings "nan", "inf" and "-inf", which float() and `read_rows` take
    back. After restarts the file is the one of a run that nobody stopped: each step once.
    """

    _file: RowFile

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Repairs a torn last line and removes rows after `step`. Raises CannotWrite, and BadData for a spoilt file."""
        path = folder / "metrics.jsonl"
        kept = [line for line, row in _whole_lines(path) if row["step"] <= step]
        self._file = RowFile(path, b"".join(kept))
        self._late = b""  # rows that the disk had no room for yet

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """A row that cannot be written waits for the next one, with a warning: a full disk may have room again."""
        row = {"step": step} | {key: _to_json(value) for key, value in scalars.items()}
        waiting = bool(self._late)
        self._late += json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            self._write_late()
        except CannotWrite as error:
            if not waiting:
                logger.warning("%s; the rows wait until they can be written", error)

    def sync(self) -> None:
        """Waits until the disk has every row. Before a checkpoint, it makes a power cut lose no row up to that step.

        Raises CannotWrite.
        """
        self._write_late()
        self._file.sync()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Raises CannotWrite."""
        try:
            self._write_late()
        finally:
            self._file.close()

    def _write_late(self) -> None:
        if self._late:
            self._file.append(self._late)
            self._late = b""


def read_rows(path: Path) -> list[dict[str, float]]:
    """Every whole row of a metrics.jsonl, also while it is being written; no file is no rows.

    Raises BadData for a line that is not a row and not the last.
    """
    return [{key: _from_json(value) for key, value in row.items()} for _, row in _whole_lines(path)]


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line, with its end, and its object. A last line that only lacks its end counts; a torn one does not."""
    lines = storage.read_whole(path).splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            yield line.rstrip(b"\n") + b"\n", row
        elif number < len(lines) or line.endswith(b"\n"):
            raise BadData(
                f"{path}:{number} is not a row but {line[:40]!r}; expected an object with a step",
                hint=f"delete line {number} of {path}",
            )


def _row(line: bytes) -> dict[str, Any] | None:
    row = parse_object(line)
    if row is None or wrong_value(row, {"step": int}, ("step",)):
        return None
    return row if all(isinstance(value, int | float) or value in _NOT_FINITE for value in row.values()) else None


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(float(value))


def _from_json(value: float | str) -> float:
    return float(value) if isinstance(value, str) else value
