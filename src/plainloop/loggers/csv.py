"""metrics.csv: the rows of metrics.jsonl as a table, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plainloop.errors import CannotWrite
from plainloop.loggers.rows import RowFile
from plainloop.system import storage


class Csv:
    """Writes a table with a column per key, in the order in which keys first appear; a cell without a value is empty.

    After restarts the file is the one of a run that nobody stopped.
    """

    _file: RowFile
    _columns: list[str]

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Removes a last line that was cut off, rows after `step`, and columns of only those. Raises CannotWrite."""
        path = folder / "metrics.csv"
        rows = [row for row in _read(path) if int(row["step"]) <= step]
        self._columns = ["step"]
        self._add_columns(rows)
        self._file = RowFile(path, self._table(rows))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Raises CannotWrite; then the file is as it was."""
        row = {"step": str(step)} | {key: repr(value) for key, value in scalars.items()}
        if row.keys() <= set(self._columns):
            self._file.append(self._lines([row]))
            return
        rows, old, columns = [*_read(self._file.path), row], self._file, list(self._columns)
        self._add_columns([row])
        try:
            self._file = RowFile(old.path, self._table(rows))
        except CannotWrite:
            self._columns = columns
            raise
        old.close()

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._file.close()

    def _add_columns(self, rows: Iterable[Mapping[str, str]]) -> None:
        for row in rows:
            self._columns += [key for key, cell in row.items() if cell and key not in self._columns]

    def _table(self, rows: Iterable[Mapping[str, str]]) -> bytes:
        return self._lines([{column: column for column in self._columns}]) + self._lines(rows)

    def _lines(self, rows: Iterable[Mapping[str, str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [row.get(column, "") for column in self._columns] for row in rows
        )
        return text.getvalue().encode()


def _read(path: Path) -> list[dict[str, str]]:
    """The whole rows: in a torn last line the last number may be cut, so it does not count."""
    text = storage.read_whole(path).decode() if path.exists() else ""
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
