"""Finds a learning rate: the rate rises from step to step, and the loss shows where learning begins and where it ends.

Trains one process for some steps and keeps nothing but a picture. The same command gives the same curve. Read the
suggestion as a start: it is for the highest rate of a schedule with a warm-up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.commands.composed import answer, checked, parser_of, told
from plainloop.errors import BadConfig

EXAMPLES = (
    "optimizer=sgd",
    "data=image_folder data.root=/data/pets model=resnet18 augment=standard --steps 300",
    "experiment=finetune data=fashion_mnist model=tiny --low 1e-5 --high 10 --out lr.png",
)


def main(arguments: Sequence[str]) -> int:
    """`python scripts/find_lr.py`; the exit code."""
    parser = parser_of("find_lr", __doc__ or "", EXAMPLES)
    parser.add_argument("--low", type=float, default=1e-6, help="the first rate (%(default)s)")
    parser.add_argument("--high", type=float, default=10.0, help="the last rate (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="from the first rate to the last (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/find_lr.png"), help="the picture (%(default)s)")
    options, overrides = parser.parse_known_args(arguments)
    return answer(lambda: find(overrides, options))


def find(overrides: Sequence[str], options: argparse.Namespace) -> int:
    from plainloop.report.plan import draw
    from plainloop.run.probe.lr_range import range_test, write_picture
    from plainloop.system.storage import make_folder

    if not 0 < options.low < options.high:
        raise BadConfig(f"--low {options.low:g} must be above 0 and below --high {options.high:g}")
    if options.steps < 20:
        raise BadConfig(f"--steps {options.steps} must be 20 or more: a curve needs points")
    if options.out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise BadConfig(f"--out {options.out} must end in .png, .pdf or .svg")
    config = checked(overrides).config
    with told() as tell:
        curve = range_test(config, low=options.low, high=options.high, steps=options.steps, tell=tell)
    if len(curve.rates) < 2:
        raise BadConfig(
            f"the loss is not a number at the rate {options.low:g} already", hint=f"type --low {options.low / 1e3:.0e}"
        )
    make_folder(options.out.parent)
    write_picture(curve, options.out, title=about(config))
    write = sys.stdout.write
    shown = [curve.smooth[round(i * (len(curve.smooth) - 1) / 59)] for i in range(60)]
    top = 1.3 * max(curve.smooth[: curve.lowest + 1])
    for number, row in enumerate(draw([min(loss, top) for loss in shown])):
        write(f"{f'{top:.3g}' if number == 0 else '':>8} {row}\n")
    write(f"{'loss':>8} {curve.rates[0]:<10.1e}{'rate, by the logarithm':^40}{curve.rates[-1]:>10.1e}\n")
    write(f"picture {options.out}\n")
    if problem := curve.problem():
        write(f"no suggestion: {problem}\n")
        return 0
    at = curve.rates[curve.lowest]
    write(f"the loss is lowest at the rate {at:.2g} and rises above it; a tenth of that is {curve.suggestion:g}\n")
    write(f"type {as_typed(config, curve.suggestion)}\n")
    return 0


def as_typed(config: Mapping[str, Any], rate: float) -> str:
    """The override that gives this rate; with trainer.lr_scaling, optimizer.lr is the rate at another batch size."""
    from plainloop.config.parts import base_lr_of

    scale = base_lr_of(config) / config["optimizer"]["lr"]
    text = f"optimizer.lr={float(f'{rate / scale:.2g}'):g}"
    return text if scale == 1.0 else f"{text}   (x {scale:g} by trainer.lr_scaling is {rate:g})"


def about(config: Mapping[str, Any]) -> str:
    from plainloop.config.durations import train_batch_size

    names = [str(config[part]["_target_"]).rpartition(".")[2] for part in ("optimizer", "data")]
    model = config["model"].get("model_name") or config["model"]["_target_"].rpartition(".")[2]
    return f"{model} on {names[1]}, {names[0]}, batch {train_batch_size(config)}, seed {config['seed']}"
