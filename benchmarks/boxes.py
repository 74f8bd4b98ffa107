"""Compares reading photographs with boxes with torchvision: from files to batches of 416 pixels, by two workers.

    python benchmarks/photographs.py /tmp/photographs             # once: makes 5,000 JPEGs
    python benchmarks/boxes.py /tmp/photographs

Each image has 7 boxes on average, as COCO's have. Ours resizes by one factor and pads (`BoxedImages`); torchvision
resizes both sides with `v2.Resize` on `tv_tensors.BoundingBoxes`, which is less work for it, and gets the same padding
of boxes. Clocks and blocks are those of image_folder.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_folder import BATCH, CLOCKS, CPU, WORKERS, Batches, Contender, measure, ratio
from pairs import machine, median
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import decode_image
from torchvision.transforms import v2

from plainloop.contracts import Facts, Split
from plainloop.data.boxes.annotations import Annotated, Outlines
from plainloop.data.boxes.samples import BoxedImages
from plainloop.data.decoded import IMAGENET_MEAN, IMAGENET_STD, DecodedFiles
from plainloop.data.loading.samples import Images

SIZE = 416
MEAN_OBJECTS = 7


def annotations(root: Path) -> Annotated:
    """Random boxes with an outline of 20 points each: an ellipse."""
    draw = np.random.default_rng(0)
    files = sorted(path.relative_to(root) for path in root.rglob("*.jpg"))
    sizes = np.array([Image.open(root / file).size[::-1] for file in files], np.int32)
    counts = draw.poisson(MEAN_OBJECTS, len(files))
    total = int(counts.sum())
    limits = np.repeat(sizes[:, ::-1], counts, axis=0)
    lengths = limits * draw.uniform(0.05, 0.5, (total, 2))
    starts = (limits - lengths) * draw.uniform(0, 1, (total, 2))
    boxes = np.concatenate([starts, starts + lengths], axis=1).astype(np.float32)
    turns = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points = (starts[:, None] + lengths[:, None] * (ring + 1) / 2).reshape(-1, 2).astype(np.float32)
    numbers, none = np.arange(total + 1), np.zeros(total + 1, np.int64)
    return Annotated(
        images=np.array([os.fsencode(file) for file in files]),
        sizes=sizes,
        first=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        label=draw.integers(0, 80, total),
        crowd=np.zeros(total, np.bool_),
        difficult=np.zeros(total, np.bool_),
        area=lengths.prod(1).astype(np.float32),
        outlines=Outlines(points, 20 * numbers, numbers, np.zeros(0, np.uint8), none, np.zeros((total, 2), np.int32)),
    )


@dataclass(kw_only=True, eq=False)
class Boxed(DecodedFiles):
    root: Path
    objects: Annotated

    def known(self) -> Facts:
        return Facts(len(self.objects), 0, ("object",) * 80, (3, SIZE, SIZE), IMAGENET_MEAN, IMAGENET_STD)

    def all_images(self) -> dict[Split, Images]:
        return {"train": BoxedImages.of(self.root, self.objects, (self.image_size, self.image_size))}


def ours_on(root: Path, objects: Annotated, *, masks: bool = False, **settings: Any) -> Batches:
    chosen = objects if masks else replace(objects, outlines=None)
    given = {"batch_size": BATCH, "num_workers": WORKERS, "image_size": SIZE, "device": "cpu"} | settings
    for batch in Boxed(root=root, objects=chosen, **given).train_batches(0, 10**9, seed=0):
        yield batch["image"]


class TorchvisionBoxes(Dataset[Any]):
    def __init__(self, root: Path, objects: Annotated, *, tensors: bool) -> None:
        self.root, self.objects, self.tensors = root, objects, tensors
        self.resize = v2.Resize((SIZE, SIZE), antialias=True)

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Any:
        path, here = self.root / os.fsdecode(self.objects.images[index]), self.objects.objects(index)
        if self.tensors:
            image: Any = tv_tensors.Image(decode_image(str(path), mode="RGB", apply_exif_orientation=True))
        else:
            image = Image.open(path).convert("RGB")
        size = tuple(v2.functional.get_size(image))
        boxes = tv_tensors.BoundingBoxes(torch.tensor(self.objects.boxes[here]), format="XYXY", canvas_size=size)
        image, target = self.resize(image, {"boxes": boxes, "labels": torch.tensor(self.objects.label[here])})
        return (image if self.tensors else v2.functional.pil_to_tensor(image)), target


def padded(samples: list[Any]) -> tuple[torch.Tensor, ...]:
    images, targets = zip(*samples, strict=True)
    boxes = [torch.as_tensor(target["boxes"]) for target in targets]
    labels = [target["labels"] for target in targets]
    valid = [torch.ones(len(label), dtype=torch.bool) for label in labels]
    return (torch.stack(images), *(pad_sequence(part, batch_first=True) for part in (boxes, labels, valid)))


def torchvision_on(root: Path, objects: Annotated, *, tensors: bool) -> Batches:
    loader = DataLoader(
        TorchvisionBoxes(root, objects, tensors=tensors),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        drop_last=True,
        collate_fn=padded,
    )
    while True:
        yield from (batch[0] for batch in loader)


def contenders(root: Path, cache_dir: str) -> dict[str, Batches]:
    objects = annotations(root)
    return {
        "ours": ours_on(root, objects),
        "ours from the cache": ours_on(root, objects, cache="disk", cache_dir=cache_dir),
        "ours with masks": ours_on(root, objects, masks=True),
        "torchvision": torchvision_on(root, objects, tensors=False),
        "torchvision on tensors": torchvision_on(root, objects, tensors=True),
    }


def lines(times: dict[str, Any]) -> Iterator[str]:
    for name, rows in times.items():
        cells = [f"{clock} {median([1000 * row[clock] for row in rows]).text('.2f')}" for clock in CLOCKS]
        yield f"{name}: ms per image: {', '.join(cells)}"
    for name in times:
        for peer in ("torchvision", "torchvision on tensors") if name.startswith("ours") else ():
            if peer in times:
                cells = [f"{clock} {ratio(times, peer, name, clock).text('.2f')}" for clock in CLOCKS]
                yield f"{name} is as many times as fast as {peer}: {', '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the folder that photographs.py has written")
    parser.add_argument("--rounds", type=int, default=15, help="15 or more for a sound interval")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="least length of a block")
    parser.add_argument("--only", nargs="+", help="names of contenders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache_dir:
        found = contenders(arguments.root, cache_dir)
        taking_part = {name: Contender(found[name]) for name in arguments.only or found}
        times = measure(taking_part, rounds=arguments.rounds, block_s=arguments.block_seconds)
        for contender in taking_part.values():
            contender.batches.close()
    print("\n".join(lines(times)), machine(CPU), f"{time.perf_counter() - start:.0f} s in all", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
