"""Finds the largest batch that fits into the memory of one device: training steps at sizes that double, measured.

On a GPU a size is too large when it runs out of memory. On a CPU, where that would end the program, a size is left out
when the two before it show that it would need more than what is free. Loading images is not part of the measurement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from plainloop.commands.composed import answer, checked, parser_of, told
from plainloop.errors import BadConfig

EXAMPLES = (
    "data=fashion_mnist model=resnet20",
    "data=image_folder data.root=/data/pets model=resnet50 trainer.precision=bf16",
    "model=timm model.model_name=convnext_tiny data=cifar10 --most 256",
)


def main(arguments: Sequence[str]) -> int:
    """`python scripts/find_batch_size.py`; the exit code."""
    parser = parser_of("find_batch_size", __doc__ or "", EXAMPLES)
    parser.add_argument("--most", type=int, default=4096, help="no larger size is tried (%(default)s)")
    options, overrides = parser.parse_known_args(arguments)
    return answer(lambda: find(overrides, options))


def find(overrides: Sequence[str], options: argparse.Namespace) -> int:
    from plainloop.config.durations import train_batch_size
    from plainloop.config.parts import largest_size
    from plainloop.run.probe.batch_size import measure
    from plainloop.system.storage import readable_size

    if options.most < 8:
        raise BadConfig(f"--most {options.most} must be 8 or more")
    config = checked(overrides).config
    write, found = sys.stdout.write, []
    if sides := largest_size(config):
        write("with the largest images that augment gives, {}x{}\n".format(*sides))
    write(f"{'batch':>7} {'images/s':>10} {'memory':>10}\n")
    with told() as tell:
        for measured in measure(config, most=options.most, tell=tell):
            tell("")
            if measured.fits:
                found.append(measured)
                memory = readable_size(measured.num_bytes) if measured.num_bytes is not None else "?"
                write(f"{measured.size:>7} {measured.images_per_s:>10,.0f} {memory:>10}\n")
            else:
                write(f"{measured.size:>7} {'does not fit':>21}\n")
            sys.stdout.flush()
    if not found:
        raise BadConfig("not even the smallest batch fits", hint="a smaller model, or smaller images: data.image_size")
    largest = max(found, key=lambda one: one.size)
    fastest = max(found, key=lambda one: one.images_per_s)
    tried = "" if len(found) and largest.size * 2 <= options.most else ", the largest that was tried (--most)"
    write(f"the largest that fits is {largest.size}{tried}\n")
    size = largest.size
    if fastest.images_per_s > 1.05 * largest.images_per_s:
        write(f"{fastest.size} is faster: a larger batch than that wins nothing here\n")
        size = fastest.size
    num_train = config["facts"]["num_train"]
    if size > num_train:
        size = 2 ** (num_train.bit_length() - 1)
        write(f"the data have {num_train:,} training images, so a batch has at most that many\n")
    write(f"type {as_typed(config, size, train_batch_size(config))}\n")
    return 0


def as_typed(config: Mapping[str, Any], size: int, now: int) -> str:
    """The overrides for this batch size, with the rate that goes with it: sqrt for all but SGD."""
    if config["trainer"]["lr_scaling"]["rule"] != "none":
        return f"data.batch_size={size}   (trainer.lr_scaling keeps the rate right)"
    rule = "linear" if str(config["optimizer"]["_target_"]).endswith(".SGD") else "sqrt"
    lr = f"optimizer.lr={config['optimizer']['lr']:g}"
    return f"data.batch_size={size} {lr} trainer.lr_scaling.rule={rule} trainer.lr_scaling.base_batch_size={now}"
