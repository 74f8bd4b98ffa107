"""Tables as CSV that spreadsheets open without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([as_cell(value) for value in row] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


def as_cell(value: object) -> object:
    """Text that no spreadsheet takes for a formula; numbers as they are.

    >>> as_cell("=1+1"), as_cell("cat"), as_cell(-1.5)
    ("'=1+1", 'cat', -1.5)
    """
    if isinstance(value, int | float):
        return value
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
