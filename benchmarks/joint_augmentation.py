"""Compares augment=segmentation with the same steps done by torchvision v2 for each sample, as in a worker.

    python benchmarks/joint_augmentation.py --clock cpu --pairs 15

The steps: a random size from 0.5 to 2 times, a random square of 512 pixels with padding, a mirror image, other colours.
Ours resizes in the worker only what is kept, and does the rest for the whole batch on its device: measured are the
worker's part, which is what limits a GPU, and all of it on this CPU. torchvision does all in the worker: it resizes the
whole image, then cuts, and changes colours as bytes. Images are 1,280 x 854 pixels, made of a photograph of
scikit-learn's. Target: in the worker, twice torchvision's images/s.
"""

from __future__ import annotations

import argparse

import torch
from pairs import machine, median, ratios, rounds, timed
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from plainloop.augment.colour import color_jitter
from plainloop.augment.geometry import horizontal_flip
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.contracts import IGNORE, Batch, Sample
from plainloop.loop.normalize import to_float
from plainloop.system import rng

SIZE, BATCH = 512, 4
CPU = torch.device("cpu")


def a_sample() -> Sample:
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
    image = v2.functional.resize(photograph, [854, 1280])
    return {"image": image, "mask": (image[0] // 16).long()}


def in_worker(sample: Sample) -> Batch:
    crop = RandomScaleCrop(size=SIZE)
    samples = [crop.sample(sample) for _ in range(BATCH)]
    return {name: torch.stack([one[name] for one in samples]) for name in sample}


def workers_part(sample: Sample, steps: int) -> None:
    for _ in range(steps):
        in_worker(sample)


def ours(sample: Sample, steps: int) -> None:
    for step in range(steps):
        batch = in_worker(sample)
        rng.seed_step(0, step, 0, CPU)
        batch = color_jitter(horizontal_flip(to_float(batch), step), step, **colours(), p=0.5)


def theirs(sample: Sample, steps: int) -> None:
    fill = {tv_tensors.Image: 127, tv_tensors.Mask: IGNORE}
    transform = v2.Compose(
        [
            v2.ScaleJitter((854, 1280), (0.5, 2.0)),
            v2.RandomCrop(SIZE, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(**colours())], p=0.5),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        ]
    )
    for _ in range(steps):
        made: list[tuple[Tensor, Tensor]] = [
            transform(tv_tensors.Image(sample["image"]), tv_tensors.Mask(sample["mask"])) for _ in range(BATCH)
        ]
        for part in zip(*made, strict=True):
            torch.stack(list(part))


def colours() -> dict[str, float]:
    return {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="rounds; 15 or more for a sound interval")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="least length of a block")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sample, clock = a_sample(), arguments.clock
    contenders = {
        "worker": timed(clock, lambda steps: workers_part(sample, steps), CPU),
        "all": timed(clock, lambda steps: ours(sample, steps), CPU),
        "torchvision": timed(clock, lambda steps: theirs(sample, steps), CPU),
    }
    steps, times = rounds(contenders, pairs=arguments.pairs, block_s=arguments.block_seconds)
    print(f"{arguments.pairs} rounds of {steps} steps of {BATCH} images, {clock} time")
    for name, values in times.items():
        print(f"  {name:<12} {median([BATCH / value for value in values]).text('.1f')} images/s on one thread")
    for name, part in (("worker", "ours in the worker"), ("all", "all of ours on the CPU")):
        print(f"  {part} / torchvision {median(ratios(times, 'torchvision', name)).text('.2f')} of the images/s")
    print(machine(CPU))


if __name__ == "__main__":
    main()
