"""sweep.html: the settings of a sweep as a table, what each value changes, curves, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from plainloop.errors import BadData, printable
from plainloop.loggers.jsonl import read_rows
from plainloop.loggers.numbers import score
from plainloop.report import figures, page
from plainloop.report.sweep import text
from plainloop.report.sweep.effects import Factor, factor_of
from plainloop.report.sweep.jobs import Group, Job, Table, short_names

MOST_CURVES = 60  # runs whose metrics.jsonl is read; the best settings have colours
COLOURED = 4  # settings
MOST_FACTOR_VALUES = 24  # in one drawing of intervals
MOST_BEHIND = 300  # settings in one drawing
MOST_SETTINGS = 16  # beside one another as names


def as_html(table: Table, *, title: str, command: str) -> str:
    """The page; `command` is the line that makes it again."""
    parts = [
        _header(table, title),
        _section("", f"<div class=figures>{''.join(_figures(table))}</div>"),
        _section("All settings, best first", _settings(table)),
        *_changes(table),
        *_missing(table),
        _section("This page again", f"<pre>{page.text(command)}</pre>"),
    ]
    return page.page(title, "\n".join(parts))


def _section(title: str, markup: str) -> str:
    return f"<section>{f'<h2>{page.text(title)}</h2>' * bool(title)}{markup}</section>"


def _header(table: Table, title: str) -> str:
    """What the best setting has reached, and which run to go on with."""
    best, lines = table.best(), list(text.best_lines(table))
    value = f"<span class=value>{score(best[0].mean or 0.0)}</span>" if best else ""
    return (
        f"<p class=path>{page.text(title)}</p>"
        f"<h1>{value}<span class=what>{page.text(table.metric.name)}, mean of the best setting</span></h1>"
        f"<p class=quiet>{page.text('. '.join(text.notes(table)))}</p>"
        f"{f'<pre>{page.text(chr(10).join(lines))}</pre>' * bool(lines)}"
    )


def _settings(table: Table) -> str:
    head = [page.text(name) for name in text.head(table)]
    rows = [[page.text(cell) for cell in text.row(group)] for group in table.groups]
    return page.table(head, rows, numbers=range(len(table.keys), len(head)))


def _figures(table: Table) -> Iterator[str]:
    """The results over what differs, then the curves."""
    done = [group for group in table.groups if group.scores]
    name, names = printable(table.metric.name), short_names(table.keys)
    if len(table.keys) == 1 and len(done) > 1:
        numbers = all(figures.as_number(group.values[0]) is not None for group in done)
        if numbers or len(done) <= MOST_SETTINGS:
            drawing = figures.points([(group.values[0], group.scores) for group in done], x=names[table.keys[0]])
            yield page.figure(f"{name} of each job, and the means", drawing)
    elif len(table.keys) > 1 and len(done) > 1:
        rows = [(group.values, group.mean) for group in done[:MOST_BEHIND] if group.mean is not None]
        drawing = figures.parallel([names[key] for key in table.keys], rows, metric=name)
        yield page.figure(f"Settings and their {name}; the best three in colour", drawing)
    yield from _curves(table, done)


def _curves(table: Table, done: Sequence[Group]) -> Iterator[str]:
    """The metric and the training loss over the epochs: the best settings in colour, one line a job."""
    several = len(done) > COLOURED
    jobs = [(number, group, job) for number, group in enumerate(done) for job in group.jobs if job.results]
    rows = [(number, group, job, _rows(job)) for number, group, job in jobs[:MOST_CURVES]]
    shown = [(figures.colour(i), label(group, table.keys)) for i, group in enumerate(done[:COLOURED])]
    shown += [(figures.colour(None), "the others")] * several
    for key in (table.metric.name, "train/loss"):
        lines = [
            figures.Curve(
                f"job {job.name}: {label(group, table.keys)}",
                [(row.get("epoch", row["step"]), row[key]) for row in found if key in row],
                number if number < COLOURED else None,
            )
            for number, group, job, found in rows
        ]
        lines = [line for line in lines if len(line.points) > 1]
        if lines:
            yield page.figure(printable(key), figures.curves(lines, x="epoch"), page.key(shown))


def _changes(table: Table) -> Iterator[str]:
    """What each value of each factor changes, with intervals."""
    factors = [factor_of(table.jobs, key, table.metric) for key in table.keys]
    drawings = [drawing for factor in factors if (drawing := _intervals(factor, table))]
    if drawings:
        closing = "".join(f"<p class=quiet>{page.text(line)}</p>" for line in text.closing(factors))
        yield _section("What each value changes", f"{closing}<div class=figures>{''.join(drawings)}</div>")


def _intervals(factor: Factor, table: Table) -> str:
    rows = [(one.value, one.mean, one.low, one.high) for one in factor.effects if one.mean is not None]
    if not rows:
        return ""
    about = "<br>".join(page.text(line) for line in text.about(factor))
    x = f"change of {printable(table.metric.name)}, with its 95 % interval"
    title = f"{factor.key}, compared with {factor.baseline}"
    return page.figure(title, figures.intervals(rows[:MOST_FACTOR_VALUES], x=x), f"<p class=quiet>{about}</p>")


def _missing(table: Table) -> Iterator[str]:
    jobs = [job for job in table.jobs if not job.results]
    if jobs:
        typed = [
            " ".join(f"{key}={value}" for key, value in job.values.items() if key in (*table.keys, *table.replicates))
            for job in jobs
        ]
        rows = [
            [page.text(job.name), page.text(words), page.text(job.state), page.text(job.why)]
            for job, words in zip(jobs, typed, strict=True)
        ]
        markup = page.table(["job", "overrides", "state", "why"], rows)
        yield _section(f"Not in the table: {len(jobs)} jobs", markup)


def _rows(job: Job) -> list[dict[str, float]]:
    """The job's log; nothing where it cannot be read."""
    try:
        return read_rows(Path(job.folder) / "metrics.jsonl")
    except (BadData, OSError):
        return []


def label(group: Group, keys: Sequence[str]) -> str:
    """How a setting is named beside its curve."""
    names = short_names(keys)
    return " ".join(f"{names[key]}={value}" for key, value in zip(keys, group.values, strict=True)) or "all jobs"
