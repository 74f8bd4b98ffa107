"""The table and the comparisons of a sweep as text: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from plainloop.errors import printable
from plainloop.loggers.numbers import digits, score
from plainloop.report.sweep.effects import Effect, Factor, interval
from plainloop.report.sweep.jobs import REPLICATES, Group, Job, Metric, Table, short_names

WIDTH = 80
MOST_NAMED = 8  # jobs in one line
NOT_SHOWN = "-"


def head(table: Table) -> list[str]:
    """Names of the columns of `row`."""
    names = short_names(table.keys)
    return [*(names[key] for key in table.keys), table.metric.name, "sd", "n"]


def row(group: Group) -> list[str]:
    mean = NOT_SHOWN if group.mean is None else score(group.mean)
    sd = NOT_SHOWN if group.sd is None else spread(group)
    whole = len(group.scores) == len(group.jobs)
    return [*group.values, mean, sd, str(len(group.scores)) if whole else f"{len(group.scores)}/{len(group.jobs)}"]


def spread(group: Group) -> str:
    """The standard deviation, with the decimals of the mean."""
    assert group.mean is not None and group.sd is not None
    return f"{group.sd:.4f}" if abs(group.mean) <= 1 else digits(group.sd, num=2)


def as_text(table: Table, *, width: int = WIDTH) -> str:
    """For a terminal: best first, then what is missing."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, name in enumerate(head(table)):
        is_key = number < len(table.keys)
        grid.add_column(printable(name), justify="left" if is_key else "right", no_wrap=not is_key, overflow="fold")
    for group in table.groups:
        grid.add_row(*(Text(printable(cell)) for cell in row(group)))
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, markup=False, color_system=None)
    console.print(grid)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, *_wrapped(notes(table), width)]) + "\n"


def notes(table: Table) -> Iterator[str]:
    """What the numbers are, and which jobs are not in them."""
    metric, keys = table.metric, " and ".join(table.replicates)
    which = "the best evaluation of each run" if metric.at == "best" else "the last evaluation"
    over = f"mean and standard deviation over {keys}" if keys else "each setting was run once"
    yield f"{metric.name} of {which}, {'smaller' if metric.smaller else 'larger'} is better; {over}"
    if any(key == "data.fold" for key in table.replicates):
        yield "the training sets of folds overlap: the spread over folds says less than it seems to"
    for group in table.groups:
        if len({tuple(job.values.get(key, "") for key in REPLICATES) for job in group.jobs}) < len(group.jobs):
            yield f"typed alike, but not the same config or place, and counted each: {named(group.jobs)}"
            break
    states = Counter(job.state for job in table.jobs if not job.results)
    for state in states:
        jobs = [job for job in table.jobs if not job.results and job.state == state]
        whys = list(dict.fromkeys(job.why for job in jobs if job.why))
        why = f": {printable(whys[0])}" + (f", and {len(whys) - 1} more reasons" if whys[1:] else "") if whys else ""
        yield f"not in the table: {len(jobs)} {state}, {named(jobs)}{why}"


def named(jobs: Sequence[Job]) -> str:
    names = [printable(job.name) for job in jobs]
    more = f", ... ({len(names)} jobs)" if len(names) > MOST_NAMED else ""
    return f"job{'s' if len(names) > 1 else ''} {', '.join(names[:MOST_NAMED])}{more}"


def best_lines(table: Table) -> Iterator[str]:
    """Which run to go on with, and how far the next setting is behind."""
    found = table.best()
    if found is None:
        return
    group, job = found
    values = " ".join(f"{key}={value}" for key, value in zip(table.keys, group.values, strict=True))
    mean, value = group.mean or 0.0, job.result(table.metric.key)
    assert value is not None
    several = len(group.scores) > 1
    around = f" ± {spread(group)}" if group.sd is not None else ""
    yield printable(
        f"best      {values or 'the only setting'}: {table.metric.name} {score(mean)}{around}, n = {len(group.scores)}"
    )
    second = next((other for other in table.groups[1:] if other.mean is not None), None)
    if second is not None:
        others = zip(table.keys, second.values, group.values, strict=True)
        values = " ".join(f"{key}={value}" for key, value, best in others if value != best)
        yield printable(f"second    {values}: {_behind(group, second, table)}")
    yield printable(
        f"run       {job.folder}" + (f"   ({score(value)}, the best of its {len(group.scores)})" if several else "")
    )
    yield printable(f"weights   {job.folder / ('best' if table.metric.at == 'best' else 'last')}.safetensors")


def _behind(group: Group, other: Group, table: Table) -> str:
    """By how much the second setting is worse, paired over the seeds that both have."""
    scores = [
        {tuple(job.values.get(key, "") for key in table.replicates): job.result(table.metric.key) for job in one.jobs}
        for one in (group, other)
    ]
    pairs = [(a, b) for key, a in scores[0].items() if a is not None and (b := scores[1].get(key)) is not None]
    low, high = interval([b - a for a, b in pairs])
    assert other.mean is not None
    text = f"{score(other.mean)}"
    if low is None or high is None:
        return text
    clear = f"not distinguishable with n = {len(pairs)}" if low <= 0 <= high else "clearly behind"
    return f"{text}, a change of {signed(low)} to {signed(high)}: {clear}"


def as_markdown(table: Table) -> str:
    lines = [head(table), ["---"] * len(head(table)), *map(row, table.groups)]
    shown = "".join(f"| {' | '.join(map(_markdown, cells))} |\n" for cells in lines)
    return shown + "".join(f"\n{_markdown(line)}\n" for line in notes(table))


def as_csv(table: Table) -> str:
    """One row for each setting, with full numbers and the jobs' folders."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*map(cell, table.keys), table.metric.key, "sd", "n", "jobs", "folders"])
    for group in table.groups:
        numbers = [group.mean, group.sd, len(group.scores), len(group.jobs)]
        folders = " ".join(str(job.folder) for job in group.jobs)
        writer.writerow([*map(cell, group.values), *numbers, cell(folders)])
    return text.getvalue()


def cell(value: str) -> str:
    """Text that no spreadsheet takes for a formula.

    >>> cell("=1+1"), cell("-0.5"), cell("a\\x1b")
    ("'=1+1", '-0.5', 'a\\\\x1b')
    """
    value = printable(value)
    try:
        float(value)
    except ValueError:
        return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
    return value


def factors_as_text(factors: Sequence[Factor], metric: Metric, *, width: int = WIDTH) -> str:
    """What each value of each factor changes, for a terminal."""
    lines = []
    for factor in factors:
        lines.append(printable(f"{factor.key}, compared with {factor.baseline or 'none'}: change of {metric.name}"))
        rows = [(printable(one.value), *_numbers(one), one.verdict(metric)) for one in factor.effects]
        name = min(max((len(cells[0]) for cells in rows), default=0), 30)
        for value, mean, ends, verdict in rows:
            first = f"  {value:<{name}}"
            if len(value) > name:
                lines.append(f"  {value}"[:width])
                first = " " * (name + 2)
            lines.append(f"{first}  {mean:>8}  {ends:<18}  {verdict}".rstrip())
        lines += _wrapped(about(factor), width, indent="  ")
        lines.append("")
    return "\n".join([*lines, *_wrapped(closing(factors), width)]) + "\n"


def factors_as_markdown(factors: Sequence[Factor], metric: Metric) -> str:
    lines = []
    for factor in factors:
        lines += [f"**{_markdown(factor.key)}**, compared with {_markdown(factor.baseline)}:", ""]
        lines += [f"| value | change of {_markdown(metric.name)} | 95 % interval | n | |", "|---|---|---|---|---|"]
        for one in factor.effects:
            mean, ends = _numbers(one)
            cells = (one.value, mean, ends, str(one.num_units), one.verdict(metric))
            lines.append(f"| {' | '.join(map(_markdown, cells))} |")
        lines += ["", *(_markdown(line) for line in about(factor)), ""]
    return "\n".join([*lines, *closing(factors)]) + "\n"


def _numbers(effect: Effect) -> tuple[str, str]:
    mean = NOT_SHOWN if effect.mean is None else signed(effect.mean)
    ends = "" if effect.low is None or effect.high is None else f"{signed(effect.low)} to {signed(effect.high)}"
    return mean, ends


def about(factor: Factor) -> Iterator[str]:
    """Over what the pairs are, and which are missing."""
    units = sorted({effect.num_units for effect in factor.effects})
    settings = sorted({effect.num_settings for effect in factor.effects})
    word = {"seed": "seed", "data.fold": "fold"}.get(factor.unit, factor.unit)
    of = f"; in each, the mean over {_span(settings)} settings of the other factors" if settings[-1] > 1 else ""
    if units[-1]:
        yield f"paired over {_span(units)} {word}{'s' if units[-1] != 1 else ''}{of}"
    for effect in factor.effects:
        used, tried = effect.pairs
        if effect.missing:
            more = f", ... ({len(effect.missing)})" if len(effect.missing) > 3 else ""
            rest = (
                f"; {used} of {tried} pairs are used, so that each {word} has the same settings"
                if used < tried - len(effect.missing)
                else ""
            )
            yield printable(f"{effect.value}: no pair for {', '.join(effect.missing[:3]) or '-'}{more}{rest}")


def closing(factors: Sequence[Factor]) -> list[str]:
    """What several intervals at once mean."""
    count = sum(effect.low is not None for factor in factors for effect in factor.effects)
    if count < 2:
        return []
    return [
        f"{count} intervals of 95 %: among 20 such intervals one does not hold the true change. Before you build on "
        "one that stands out, run it again with seeds that are not in this table."
    ]


def signed(value: float) -> str:
    """
    >>> signed(0.00441), signed(-12.345), signed(0.0)
    ('+0.0044', '-12.3', '0.0000')
    """
    text = score(abs(value))
    return text if not float(text) else f"{'-' if value < 0 else '+'}{text}"


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _wrapped(lines: Iterable[str], width: int, indent: str = "") -> list[str]:
    return [
        part for line in lines for part in wrap(line, width, initial_indent=indent, subsequent_indent=indent + "  ")
    ]


def _markdown(text: str) -> str:
    """
    >>> _markdown("a|b<c>")
    'a\\\\|b&lt;c>'
    """
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
