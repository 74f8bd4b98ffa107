"""Finds how many processes must decode images so that training does not wait for them: images a second, measured.

Each number of workers is measured on its own, without training, and so is the training step, without loading. What is
slower is the limit. On a CPU both share the same cores; then the sum of both is what a run gets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from plainloop.commands.composed import answer, checked, parser_of, told
from plainloop.errors import BadConfig

EXAMPLES = (
    "data=image_folder data.root=/data/pets model=resnet18 augment=standard",
    "data=image_folder data.root=/data/pets model=resnet50 data.cache=disk",
    "data=mask_folder data.root=/data/road task=segmentation model=unet augment=segmentation --most 8",
)
ENOUGH = 1.1  # times what the step takes: images differ in size


def main(arguments: Sequence[str]) -> int:
    """`python scripts/find_workers.py`; the exit code."""
    parser = parser_of("find_workers", __doc__ or "", EXAMPLES)
    parser.add_argument("--most", type=int, help="no more workers are tried (as many as there are CPUs)")
    options, overrides = parser.parse_known_args(arguments)
    return answer(lambda: find(overrides, options))


def find(overrides: Sequence[str], options: argparse.Namespace) -> int:
    from plainloop.run.probe.workers import has_workers, measure, numbers_to_try, step_images_per_s

    if options.most is not None and options.most < 0:
        raise BadConfig(f"--most {options.most} must be 0 or more")
    config, write = checked(overrides).config, sys.stdout.write
    if not has_workers(config):
        write("these data are held in memory or on the device: they have no workers, and need none\n")
        return 0
    with told() as tell:
        tell("the training step")
        step = step_images_per_s(config)
        tell("")
        write(f"the training step takes {step:,.0f} images/s\n{'workers':>8} {'images/s':>10}\n")
        found = {}
        for number, speed in measure(config, numbers_to_try(options.most), tell=tell):
            found[number] = speed
            tell("")
            write(f"{number:>8} {speed:>10,.0f}\n")
            sys.stdout.flush()
    enough = [number for number, speed in found.items() if speed >= ENOUGH * step]
    best = enough[0] if enough else max(found, key=lambda number: found[number])
    if enough:
        write(f"the training step is the limit: {best} workers give {found[best] / step:.1f} times what it takes\n")
    else:
        share = 100 * found[best] / step
        write(f"loading is the limit: {best} workers give {share:.0f} % of what the step takes. More CPUs help, or\n")
        write("decoding each image once with data.cache=disk, or a smaller data.cache_size\n")
    write(f"type data.num_workers={best}\n")
    return 0
