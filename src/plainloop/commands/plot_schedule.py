"""Draws the learning rate of a run over its steps; with lists of values, as for -m, several in one picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plainloop.commands.composed import CONF, answer, parser_of
from plainloop.commands.train import register_launchers
from plainloop.config.compose import command as command_line
from plainloop.config.compose.composer import Composer
from plainloop.errors import BadConfig
from plainloop.loggers.screen import working

EXAMPLES = (
    "scheduler=cosine_warmup,multistep",
    "scheduler=cosine_warmup scheduler.warmup=0ep,5ep,10ep trainer.duration=90ep optimizer=sgd",
    "experiment=resnet50_in1k_cosine,resnet50_in1k_piecewise --out schedules.svg",
)
MOST = 10  # curves that can be told apart


def main(arguments: Sequence[str]) -> int:
    """`python scripts/plot_schedule.py`; the exit code."""
    parser = parser_of("plot_schedule", __doc__ or "", EXAMPLES)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/plot_schedule.png"), help="the file, .png or .svg (%(default)s)"
    )
    options, overrides = parser.parse_known_args(arguments)
    return answer(lambda: plot(overrides, options.out))


def plot(typed: Sequence[str], out: Path) -> int:
    from plainloop.sweep.check import check_sweep
    from plainloop.sweep.outcome import without_common
    from plainloop.system.storage import make_folder

    if out.suffix.lower() not in (".png", ".svg"):
        raise BadConfig(f"--out {out} must end in .png or .svg")
    command = command_line.parse(typed)
    register_launchers(CONF)
    composer = Composer(CONF, config_name=command.config_name, extra_dir=command.config_dir)
    command = replace(command, overrides=composer.as_names(command.overrides))
    with working("checking"):
        jobs = check_sweep(composer, command.overrides, composer.wrong_flags(command.flags)).jobs
    if not 0 < len(jobs) <= MOST:
        raise BadConfig(f"this would draw {len(jobs)} curves, which nobody can tell apart; {MOST} are the most")
    from plainloop.report.schedules import as_text, curve_of, picture

    labels = without_common([job.overrides for job in jobs])
    curves = [curve_of(label, job.config) for label, job in zip(labels, jobs, strict=True)]
    sys.stdout.writelines(f"{line}\n" for line in as_text(curves))
    make_folder(out.parent)
    with working("drawing"):
        picture(curves, out)
    sys.stdout.write(f"{out}\n")
    return 0
