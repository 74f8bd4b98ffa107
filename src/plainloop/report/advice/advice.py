"""What to try next after a run: rules, each of which looks at the run's files and says one thing or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import wrap

from plainloop.errors import printable
from plainloop.report.advice import fit, rate, speed
from plainloop.report.advice.evidence import Advice, Evidence, read

Rule = Callable[[Evidence], Advice | None]

# The most important first.
RULES: tuple[Rule, ...] = (
    rate.rate_too_high,
    rate.rate_too_low,
    fit.nothing_found,
    fit.over_fitting,
    fit.over_fitting_still,
    fit.under_fitting,
    fit.label_smoothing,
    fit.dropout,
    fit.crop_scale,
    rate.not_yet_flat,
    fit.weight_decay,
    fit.too_small,
    rate.early_stop,
    speed.data_bound,
    speed.gpu_idle,
    speed.small_batch,
)
SHOWN, WIDTH = 3, 80  # at the end of a run; columns


def advice(folder: Path) -> list[Advice]:
    """What the files of a run, also of one that still trains, give reason to try. [] where nothing is clear.

    Raises BadConfig and BadData for files that no run writes.
    """
    run = read(folder)
    return list(given(run)) if run.rows else []


def given(run: Evidence) -> Iterator[Advice]:
    """What the rules say, each with the words of the run's command that its line replaces."""
    for rule in RULES:
        if (found := rule(run)) is not None:
            keys = {key_of(word) for word in found.line.split()}
            yield replace(found, instead=" ".join(word for word in run.typed if key_of(word) in keys))


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def lines(folder: Path) -> Iterator[str]:
    """For the end of a run; the command to try stays whole."""
    for one in advice(folder)[:SHOWN]:
        yield from wrap(
            printable(f"{one.title}: {one.evidence}"), WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
        instead = f"   instead of {one.instead}" if one.instead else ""
        yield printable(f"  try: {one.line}{instead}")
