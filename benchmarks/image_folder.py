"""Compares reading photographs with torchvision and timm: from files to normalized batches, by two workers.

    python benchmarks/photographs.py /tmp/photographs             # once: makes 5,000 JPEGs
    python benchmarks/image_folder.py /tmp/photographs            # a table; --save writes it into benchmarks/results/

All crop a random part to 224 x 224 pixels, mirror half of the images and normalize; with RandAugment, and without. Wall
time, and the CPU time of the process and the contender's workers, which other programs on the machine change less. What
the workers take bounds the images/s where a GPU does the rest: ours and timm's normalize there, ours mirrors there too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Generator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from ours import ours
from pairs import Median, machine, median
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_image
from torchvision.transforms import v2

from plainloop.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from plainloop.data.loading.decode import decode

BATCH, WORKERS, SIZE = 32, 2, 224
DROPPED = 2 * WORKERS + 2  # batches that a loader may have prepared, and a little more
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "pillow", "simplejpeg")
CPU = torch.device("cpu")

CLOCKS = ("wall", "CPU", "CPU of the workers")
Times = dict[str, float]  # seconds per image, by clock
Batches = Generator[torch.Tensor, None, None]
PEERS = ("torchvision", "torchvision on tensors", "timm")


def ours_on(root: Path, *settings: str) -> Batches:
    """As the trainer prepares batches for the model."""
    given = [f"data.root={root}", f"data.batch_size={BATCH}", f"data.num_workers={WORKERS}", f"data.image_size={SIZE}"]
    trainer = ours(["data=image_folder", "model=tiny", "device=cpu", *given, *settings]).trainer
    for step, batch in enumerate(trainer.data.train_batches(0, 10**9, seed=0)):
        batch = trainer.prepare(batch)
        for augment in trainer.augment:
            batch = augment(batch, step)
        yield trainer.normalize(batch)["image"]


def torchvision_on(root: Path, *, randaugment: bool, tensors: bool = False) -> Batches:
    """As in torchvision's references/classification/presets.py, for Pillow's images or for tensors."""
    steps = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    steps += [v2.RandAugment(num_ops=2, magnitude=9)] * randaugment
    steps += [v2.PILToTensor()] * (not tensors)
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    read = {"loader": lambda path: decode_image(path, mode="RGB", apply_exif_orientation=True)} if tensors else {}
    images = ImageFolder(str(root), v2.Compose(steps), **read)
    loader = DataLoader(
        images, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True
    )
    for _ in itertools.count():
        yield from (image for image, _ in loader)


def timm_on(root: Path, *, randaugment: bool) -> Batches:
    from timm.data import ImageDataset, create_loader

    loader = create_loader(
        ImageDataset(str(root)),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        num_workers=WORKERS,
        interpolation="bilinear",  # its default also takes the slower bicubic one
        color_jitter=None,
        auto_augment="rand-m9-n2" if randaugment else None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        device=CPU,
    )
    for _ in itertools.count():
        yield from (image for image, _ in loader)


class Decoding:
    """Decodes a file and gives nothing back."""

    def __init__(self, root: Path) -> None:
        self.paths = sorted(root.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> int:
        decode(self.paths[number])
        return number


def decoding_on(root: Path) -> Batches:
    loader = DataLoader(Decoding(root), batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    for _ in itertools.count():
        yield from loader


def contenders(root: Path, cache_dir: str) -> dict[str, Batches]:
    cache = ("data.cache=disk", f"data.cache_dir={cache_dir}")
    found: dict[str, Batches] = {}
    for more, augment in (("", "augment=standard"), (" + RandAugment", "augment=[standard,randaugment]")):
        with_it = bool(more)
        found |= {
            f"ours{more}": ours_on(root, augment),
            f"ours from the cache{more}": ours_on(root, augment, *cache),
            f"torchvision{more}": torchvision_on(root, randaugment=with_it),
            f"torchvision on tensors{more}": torchvision_on(root, randaugment=with_it, tensors=True),
            f"timm{more}": timm_on(root, randaugment=with_it),
        }
    return found | {"decoding alone": decoding_on(root)}


class Contender:
    """A stream of batches, and the processes that read for it."""

    def __init__(self, batches: Batches) -> None:
        before = set(active_children())
        next(batches)
        self.batches, self.workers = batches, set(active_children()) - before

    def block(self, number: int) -> Times:
        """What the stream had prepared goes first, so that nothing is for free."""
        for _ in range(DROPPED):
            next(self.batches)
        begun = self.clocks()
        for _ in range(number):
            next(self.batches)
        wall, main, workers = ((b - a) / number / BATCH for a, b in zip(begun, self.clocks(), strict=True))
        return {"wall": wall, "CPU": main + workers, "CPU of the workers": workers}

    def clocks(self) -> tuple[float, float, float]:
        """Wall time, and the CPU time of this process and of this stream's workers."""
        ticks = 0
        for worker in self.workers:
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return time.perf_counter(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


def measure(found: dict[str, Contender], *, rounds: int, block_s: float) -> dict[str, list[Times]]:
    names, times = list(found), {name: [] for name in found}
    numbers = {}
    for name, contender in found.items():
        seconds = contender.block(6)["wall"]
        numbers[name] = max(6, math.ceil(block_s / seconds / BATCH))
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(found[name].block(numbers[name]))
        print(f"\rround {number + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def ratio(times: dict[str, list[Times]], slow: str, fast: str, clock: str) -> Median:
    return median([a[clock] / b[clock] for a, b in zip(times[slow], times[fast], strict=True)])


def report(times: dict[str, list[Times]], facts: dict[str, Any]) -> str:
    """Markdown: times of each, then each of ours against each peer."""
    lines = ["| milliseconds per image | " + " | ".join(CLOCKS) + " |", "|---" * (1 + len(CLOCKS)) + "|"]
    for name, rows in times.items():
        cells = [median([1000 * row[clock] for row in rows]).text(".2f") for clock in CLOCKS]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    lines += ["", "| times as fast | " + " | ".join(CLOCKS) + " |", "|---" * (1 + len(CLOCKS)) + "|"]
    for name in times:
        more = " + RandAugment" if name.endswith("RandAugment") else ""
        for peer in [f"{peer}{more}" for peer in PEERS] if name.startswith("ours") else []:
            if peer in times:
                cells = [ratio(times, peer, name, clock).text(".2f") for clock in CLOCKS]
                lines.append(" | ".join([f"| {name}, compared with {peer}", *cells]) + " |")
    about = [f"* {key}: {value}" for key, value in facts.items()]
    return "\n".join(["# Reading photographs", "", *about, "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the folder that photographs.py has written")
    parser.add_argument("--rounds", type=int, default=15, help="15 or more for a sound interval")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="least length of a block")
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/image_folder.md and .json")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    start, load = time.perf_counter(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache_dir:
        found = contenders(arguments.root, cache_dir)
        taking_part = {name: Contender(found[name]) for name in arguments.only or found}
        times = measure(taking_part, rounds=arguments.rounds, block_s=arguments.block_seconds)
        for contender in taking_part.values():
            contender.batches.close()
    command = f"python benchmarks/image_folder.py <folder> --rounds {arguments.rounds}"
    facts = {
        "machine": machine(CPU),
        "load before": f"{load:.1f}",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "images": f"{len(list(arguments.root.rglob('*.jpg')))} JPEGs of benchmarks/photographs.py",
        "workers": f"{WORKERS}, batches of {BATCH}",
        "rounds": f"{arguments.rounds} of blocks of {arguments.block_seconds} s or more, taking turns; median "
        f"[95 % interval]; a ratio is taken within its round; {time.perf_counter() - start:.0f} s in all",
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
    }
    text = report(times, facts)
    print(text)
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "image_folder.md").write_text(text)
        rows = {name: {clock: [row[clock] for row in each] for clock in CLOCKS} for name, each in times.items()}
        (RESULTS / "image_folder.json").write_text(json.dumps({**facts, "seconds_per_image": rows}, indent=1))


if __name__ == "__main__":
    main()
