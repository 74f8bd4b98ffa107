"""Compares training steps of Faster R-CNN at data.image_size=[400,666], wide or tall, with those at 666, a square.

    python benchmarks/like_shapes.py

Images of noise have 640 x 480 pixels, or 480 x 640, as most of COCO's have. The model has a small backbone (ResNet-18).
A step is forward, losses and backward on one batch; data are loaded before. The result is the median of the ratios of
all rounds, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import machine, median, ratios, rounds, seconds
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from plainloop.contracts import Batch
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.models.detection.torchvision_models import TorchvisionDetector

CPU = torch.device("cpu")
SIZES = ((640, 480), (640, 480), (640, 480), (480, 640))  # width and height


def write(root: Path, num_images: int) -> None:
    draw, images, annotations = np.random.default_rng(0), [], []
    for number in range(num_images):
        width, height = SIZES[number % len(SIZES)]
        noise = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(noise).save(root / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
        for _ in range(7):  # as many as an image of COCO has
            w, h = draw.uniform(20, 200, 2).tolist()
            box = [draw.uniform(0, width - w), draw.uniform(0, height - h), w, h]
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(row | {"bbox": box, "area": w * h})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "train.json").write_text(json.dumps(content))


def stepping(model: Any, batches: list[Batch]) -> Any:
    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        losses = model(batch["image"] / 255, {name: batch[name] for name in ("boxes", "box_label", "box_valid")})
        sum(losses.values()).backward()
        model.zero_grad()

    def run(steps: int) -> float:
        def work() -> None:
            for number in range(steps):
                step(number)

        return seconds("cpu", work, CPU)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="15 or more for a sound interval")
    parser.add_argument("--short", type=int, default=400, help="the shorter side; the longer one has 5/3 of it")
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TorchvisionDetector(architecture="faster_rcnn", num_classes=1, backbone="resnet18", channels=64).train()
    long = round(arguments.short * 1333 / 800)
    sizes = {f"[{arguments.short},{long}]": [arguments.short, long], str(long): long}
    contenders, macs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 8 * arguments.batch)
        for name, size in sizes.items():
            given: Any = {"batch_size": arguments.batch, "num_workers": 0, "device": "cpu", "image_size": size}
            batches = list(CocoBoxes(root=folder, **given).train_batches(0, 4, seed=0))
            contenders[name] = stepping(model, batches)
            with FlopCounterMode(display=False) as flops:
                contenders[name](1)
            macs[name] = flops.get_total_flops() / 2 / arguments.batch
        _, times = rounds(contenders, pairs=arguments.pairs, block_s=0.1, warm_up=1)
    small, large = sizes
    for name in sizes:
        each = median([1000 * one / arguments.batch for one in times[name]]).text(".0f")
        print(f"data.image_size={name:10} {each} ms of CPU time an image, {macs[name] / 1e9:.1f} billion MACs")
    time = median(ratios(times, large, small)).text(".2f")
    print(f"{large} / {small}: {time} x the time, {macs[large] / macs[small]:.2f} x the MACs")
    print(machine(CPU))


if __name__ == "__main__":
    sys.exit(main())
