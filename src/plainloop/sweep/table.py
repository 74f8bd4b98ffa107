"""A sweep on the screen: one line for each job, then the failures and their reasons."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plainloop import errors
from plainloop.errors import CannotWrite
from plainloop.report.sweep.jobs import Table as Folded
from plainloop.report.sweep.jobs import fold
from plainloop.report.sweep.text import as_text, best_lines
from plainloop.sweep import results
from plainloop.sweep.outcome import BAD, Row, failures, shown_best, varying
from plainloop.system import storage
from plainloop.system.secrets import redact

COLUMNS = ("job", "overrides", "state", "step", "best", "minutes", "why")
_COLORS = {
    "DONE": "green",
    "FAILED": "red",
    "LOST": "red",
    "RUNNING": "cyan",
    "PREEMPTED": "yellow",
    "CANCELLED": "yellow",
}
PAGE = "sweep.html"
_WIDTH = 160  # where the output is not a terminal
_MOST_NAMED = 8  # numbers of jobs in one line


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table's text: one tuple of COLUMNS for each job."""
    texts = varying(rows)
    return [
        (
            str(row.number),
            printable(texts[row.number]),
            row.state,
            f"{row.status.step}/{row.status.total}" if row.status.total else "",
            printable(shown_best(row)),
            f"{row.minutes:.1f}" if row.minutes else "",
            printable(row.why),
        )
        for row in rows
    ]


def table(rows: Sequence[Row]) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for name in COLUMNS:
        wide = name in ("overrides", "why")
        grid.add_column(
            name, justify="right" if name in ("job", "minutes") else "left", no_wrap=not wide, overflow="fold"
        )
    for line in cells(rows):
        grid.add_row(
            *(Text(cell, style=_COLORS.get(cell, "") if name == "state" else "") for name, cell in zip(COLUMNS, line))
        )
    return grid


def counts(rows: Sequence[Row]) -> str:
    """
    >>> counts([])
    'no jobs'
    """
    states = Counter(row.state for row in rows)
    return ", ".join(f"{number} {state}" for state, number in states.most_common()) or "no jobs"


def failure_lines(rows: Sequence[Row]) -> list[str]:
    """One line for each kind of failure, with its jobs."""
    lines = []
    for failure in failures(rows):
        numbers = [str(row.number) for row in failure.rows]
        more = f", ... ({len(numbers)} jobs)" if len(numbers) > _MOST_NAMED else ""
        word = "job" if len(numbers) == 1 else "jobs"
        state = "/".join(state for state in BAD if any(row.state == state for row in failure.rows))
        lines.append(
            f"{len(numbers)} {state}: {printable(failure.why)}   ({word} {', '.join(numbers[:_MOST_NAMED])}{more})"
        )
    return lines


def show(rows: Sequence[Row]) -> None:
    """Prints the table, the failures and the counts to standard output."""
    console = Console(file=sys.stdout, width=_width(), highlight=False, markup=False, soft_wrap=False)
    console.print(table(rows))
    for line in [*failure_lines(rows), counts(rows)]:
        console.print(line, soft_wrap=True)


def show_results(rows: Sequence[Row], sweep: Path) -> None:
    """Prints the settings, best first, and the run to go on with; of a sweep in which no job is done, its jobs.

    Writes them to sweep.html, too, where it can.
    """
    found = results.read({sweep: rows})
    if not any(job.results for job in found):
        show(rows)
        return
    folded = fold(found, results.metric_of(found))
    sys.stdout.write(as_text(folded, width=_width()))
    sys.stdout.writelines(f"{line}\n" for line in [*failure_lines(rows), *best_lines(folded)])
    try:
        sys.stdout.write(f"page      {write_page(folded, [sweep])}\n")
    except CannotWrite as error:  # the jobs' results matter more, and their exit code
        sys.stdout.write(f"no page   {error}\n")
    sys.stdout.write(f"{counts(rows)}\n")


def write_page(folded: Folded, sweeps: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page of a table, by default to the folder of the first sweep. Raises CannotWrite."""
    from plainloop.report.sweep.page import as_html

    out = out or sweeps[0] / PAGE
    title = f"{'Sweeps' if len(sweeps) > 1 else 'Sweep'} {', '.join(sweep.absolute().name for sweep in sweeps)}"
    command = shlex.join(["python", "scripts/sweep.py", "table", *map(str, sweeps)])
    storage.write_whole(out, as_html(folded, title=title, command=command).encode(errors="backslashreplace"))
    return out


def _width() -> int:
    return shutil.get_terminal_size((_WIDTH, 0)).columns if sys.stdout.isatty() else _WIDTH


def printable(text: str) -> str:
    """Escapes control characters, which could change the screen, and removes secrets.

    >>> printable("a\\x1b[31mb\\n")
    'a\\\\x1b[31mb\\\\n'
    """
    return errors.printable(redact(text))
