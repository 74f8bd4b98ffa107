"""Compares the augmentations of images with boxes with torchvision's v2 for each sample, as in a worker.

    python benchmarks/object_augmentation.py --clock cpu --pairs 15

Images are 640 x 427 pixels, made of a photograph of scikit-learn's, with ten boxes. Ours find a part among fifty at
once; torchvision tries one after the other. "ssd" is zoom out, crop and resizing to 416 pixels: by our letterbox, and
by torchvision's Resize. Large-scale jitter to 512 pixels resizes in ours only what is kept. Target: as many images/s as
torchvision at least. At the end, what whole batches take of a CPU: torchvision has no such augmentations.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
from pairs import machine, median, ratios, rounds, timed
from sklearn.datasets import load_sample_image
from torchvision import tv_tensors
from torchvision.transforms import v2

from plainloop.augment.multi_scale import MultiScale
from plainloop.augment.objects.crop import RandomObjectCrop
from plainloop.augment.objects.mixup import mixup_boxes
from plainloop.augment.objects.mosaic import mosaic
from plainloop.augment.objects.zoom_out import RandomZoomOut
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.contracts import Augment, Batch, Sample
from plainloop.data.boxes.samples import fitted, without_invalid
from plainloop.loop.normalize import to_float
from plainloop.system import rng

HEIGHT, WIDTH, SIZE, JITTER, NUM_BOXES = 427, 640, 416, 512, 10
CPU = torch.device("cpu")
MEAN = (0.48, 0.46, 0.41)
FILL = {tv_tensors.Image: [round(255 * value) for value in MEAN]}
CROP, ZOOM = RandomObjectCrop(), RandomZoomOut(fill=MEAN)
LARGE = RandomScaleCrop(size=JITTER, scale=(0.1, 2.0), fit=True, fill=MEAN)
BATCHED = {"mosaic": mosaic, "mixup_boxes": mixup_boxes, "multi_scale": MultiScale(seed=0, every=1), "jitter": LARGE}
BATCH = 4
SANE = v2.SanitizeBoundingBoxes()
THEIRS: dict[str, Callable[..., object]] = {
    "crop": v2.Compose([v2.RandomIoUCrop(), SANE]),
    "zoom out": v2.RandomZoomOut(fill=FILL),
    "ssd": v2.Compose([v2.RandomZoomOut(fill=FILL), v2.RandomIoUCrop(), v2.Resize((SIZE, SIZE)), SANE]),
    "large-scale jitter": v2.Compose(
        [v2.ScaleJitter((JITTER, JITTER)), v2.RandomCrop(JITTER, pad_if_needed=True, fill=FILL), SANE]
    ),
}
OURS: dict[str, Callable[[Sample], Sample]] = {
    "crop": lambda sample: without_invalid(CROP.sample(sample)),
    "zoom out": ZOOM.sample,
    "ssd": lambda sample: fitted(without_invalid(CROP.sample(ZOOM.sample(sample))), SIZE),
    "large-scale jitter": lambda sample: without_invalid(LARGE.sample(sample)),
}


def a_sample() -> Sample:
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(NUM_BOXES, 2, generator=generator) * torch.tensor([WIDTH - 100, HEIGHT - 100])
    boxes = torch.cat([start, start + 10 + torch.rand(NUM_BOXES, 2, generator=generator) * 90], 1)
    return {
        "image": photograph,
        "boxes": boxes,
        "box_label": torch.zeros(NUM_BOXES, dtype=torch.int64),
        "box_valid": torch.ones(NUM_BOXES, dtype=torch.bool),
    }


def ours(name: str, sample: Sample, steps: int) -> None:
    for _ in range(steps):
        OURS[name](sample)


def theirs(name: str, sample: Sample, steps: int) -> None:
    boxes = tv_tensors.BoundingBoxes(sample["boxes"], format="XYXY", canvas_size=(HEIGHT, WIDTH))  # type: ignore[call-overload]
    for _ in range(steps):
        THEIRS[name]({"image": tv_tensors.Image(sample["image"]), "boxes": boxes, "labels": sample["box_label"]})


def whole_batches(augment: Augment, batch: Batch, steps: int) -> None:
    for step in range(steps):
        rng.seed_step(0, step, 0, CPU)
        augment(batch, step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="rounds; 15 or more for a sound interval")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="least length of a block")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sample = a_sample()
    for name in OURS:
        contenders = {
            "ours": timed(arguments.clock, functools.partial(ours, name, sample), CPU),
            "torchvision": timed(arguments.clock, functools.partial(theirs, name, sample), CPU),
        }
        steps, times = rounds(contenders, pairs=arguments.pairs, block_s=arguments.block_seconds)
        print(f"{name}: {arguments.pairs} rounds of {steps} images, {arguments.clock} time")
        for who, values in times.items():
            print(f"  {who:<12} {median([1000 * value for value in values]).text('.2f')} ms per image on one thread")
        print(f"  ours / torchvision {median(ratios(times, 'torchvision', 'ours')).text('.2f')} of the images/s")
    one = fitted(sample, SIZE)
    batch = to_float({name: torch.stack([tensor] * BATCH) for name, tensor in one.items()})
    together = {
        name: timed(arguments.clock, functools.partial(whole_batches, augment, batch), CPU)
        for name, augment in BATCHED.items()
    }
    steps, times = rounds(together, pairs=arguments.pairs, block_s=arguments.block_seconds)
    print(
        f"whole batches of {BATCH} images of {SIZE} pixels: {arguments.pairs} rounds of {steps}, {arguments.clock} time"
    )
    for name, values in times.items():
        print(
            f"  {name:<12} {median([1000 * value / BATCH for value in values]).text('.2f')} ms per image on one thread"
        )
    print(machine(CPU))


if __name__ == "__main__":
    main()
