"""Draws images as training sees them at a step, each beside the original, with their labels; writes a PNG."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.commands.composed import answer, arguments_for, checked, parser_of, take_word
from plainloop.config.durations import clock_of
from plainloop.contracts import Batch
from plainloop.errors import BadConfig
from plainloop.loggers.screen import working

EXAMPLES = (
    "augment=crop_flip",
    "augment=[standard,randaugment,cutmix] data=image_folder data.root=/data/pets step=1000",
    "augment=mixup data=fashion_mnist step=10ep --images 16 --out mixup.png",
)


def main(arguments: Sequence[str]) -> int:
    """`python scripts/preview_augment.py`; the exit code."""
    parser = parser_of("preview_augment", __doc__ or "", EXAMPLES)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/preview_augment.png"), help="the file, .png or .jpg (%(default)s)"
    )
    parser.add_argument("--images", type=int, default=8, help="how many, at most those of a batch (%(default)s)")
    parser.add_argument("step=N", nargs="?", help="finished steps, or as 10ep; 0 is the first batch (0)")
    options, overrides = parser.parse_known_args(arguments)
    return answer(lambda: preview([*filter(None, [vars(options)["step=N"]]), *overrides], options.images, options.out))


def preview(overrides: list[str], num_images: int, out: Path) -> int:
    from plainloop.report.sheet import sheet
    from plainloop.system.storage import make_folder

    text = take_word("step", overrides) or "0"
    if num_images < 1:
        raise BadConfig(f"--images {num_images} must be 1 or more")
    if out.suffix.lower() not in (".png", ".jpg"):
        raise BadConfig(f"--out {out} must end in .png or .jpg")
    found = checked(overrides)
    config, clock = found.config, clock_of(found.config)
    step = step_of(text, config)
    with working("decoding and augmenting"):
        before, after = both(config, step)
    names = config["facts"]["class_names"]
    augment = ", ".join(config["augment"]) or "none"
    title = f"augment: {augment}; step {step} of {clock.total_steps}, seed {config['seed']}"
    make_folder(out.parent)
    sheet(before, after, names, title=title, num_images=num_images).save(out)
    sys.stdout.write(f"{out}: {min(num_images, len(before['index']))} of the {len(before['index'])} images of ")
    sys.stdout.write(f"step {step} of {clock.total_steps}; augment: {augment}\n")
    if found.ranks > 1:
        sys.stdout.write(f"on {found.ranks} ranks, mixup, cutmix and mosaic take other partners, of the same rank\n")
    return 0


def step_of(text: str, config: Mapping[str, Any]) -> int:
    clock = clock_of(config)
    try:
        step = int(text) if text.isdecimal() else clock.steps(text)
    except ValueError as error:
        raise BadConfig(f"step={error}", hint="type step=100 or step=10ep") from error
    if step >= clock.total_steps:
        raise BadConfig(
            f"step={text} is not in the run of {clock.total_steps} steps",
            hint=f"type step={clock.total_steps - 1} or less, or a longer trainer.duration",
        )
    return step


def both(config: dict[str, Any], step: int) -> tuple[Batch, Batch]:
    """The batch of a step without augmentation, and as training sees it, by the functions of the run."""
    from plainloop.config.parts import build_data, make_part
    from plainloop.distributed.process_group import pick_device
    from plainloop.loop.augmented import augmented
    from plainloop.loop.normalize import to_float
    from plainloop.run.run import torch_draws_alone

    config, batches = arguments_for(config, num_workers=0), []  # what workers draw does not depend on them
    for part in (config | {"augment": {}}, config):
        data, augment = build_data(part, functools.partial(make_part, part, clock_of(part)))
        (batch,) = data.train_batches(step, step + 1, config["seed"])
        batches.append(
            augmented(
                batch,
                step,
                seed=config["seed"],
                device=pick_device(config["device"]),
                prepare=to_float,
                augment=list(augment.values()),
                torch_draws_alone=torch_draws_alone(part),
            )
        )
    return batches[0], batches[1]
