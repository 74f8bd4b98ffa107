"""Measures training on a CUDA device in under 8 minutes: pairs that take turns, medians with 95 % intervals.

    make bench-gpu
    make bench-gpu ARGS="--case resnet50 --case vit --minutes 5"
    make bench-gpu DEVICE=cpu           # the same code at toy size, which measures nothing

resnet50, vit   our loop, compiled, bf16, channels-last, on images that are on the card as bytes, against timm's own
                step on one batch that never changes, and as a share of the card's peak. Target: 0.98 of its images/s.
folder          ResNet-50 fed from a folder of JPEGs by workers, with and without a cache, against images on the card.
loop            what our loop costs for each step of a small model, against a bare loop.
fast            trainer=fast against an eager loop written by hand, resnet20. Target: 1.3 times its images/s.
Each case is written to benchmarks/results as soon as it is measured; one that no time is left for is named there.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_results
import photographs
import torch
from loop_overhead import Bare
from ours import Ours, ours
from pairs import differences, median, ratios, rounds, timed
from throughput import Resident
from torch import nn
from torch.nn import functional as F

from plainloop.config.check.meta_model import model_summary
from plainloop.data.loaders import Loader, loaders
from plainloop.data.memory import InMemory

ROOT = Path(__file__).resolve().parent.parent
LEAST_S = 45.0  # a case that is begun later would hardly be measured
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What a card is given, or a CPU at toy size."""

    device: str
    pairs: int
    block_s: float
    image: int
    batch: int
    photos: int
    compile: bool
    models: dict[str, str]


CARD = Size("cuda", 15, 2.0, 224, 256, 2048, True, {"resnet50": "resnet50", "vit": "vit_small_patch16_224"})
TOY = Size("cpu", 2, 0.01, 32, 8, 60, False, {"resnet50": "resnet20", "vit": "tiny"})


class TimmsStep:
    """What timm's train.py does with a batch, on one that is on the card and never changes."""

    def __init__(self, loop: Ours, size: Size) -> None:
        from timm.optim import create_optimizer_v2

        config = loop.config
        device, num_classes = loop.trainer.device, len(config["facts"]["class_names"])
        self.model = copy.deepcopy(loop.state.model)
        self.optimizer = create_optimizer_v2(self.model, opt="adamw", lr=1e-3, weight_decay=0.05)
        image = torch.randn(size.batch, 3, size.image, size.image, device=device)
        self.image = image.contiguous(memory_format=torch.channels_last)
        self.label = torch.randint(num_classes, (size.batch,), device=device)
        self.forward = torch.compile(self.model) if size.compile else self.model
        self.device = device

    def train(self, steps: int) -> None:
        self.model.train()
        for _ in range(steps):
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = F.cross_entropy(self.forward(self.image), self.label)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def on_the_card(loop: Ours, size: Size) -> Ours:
    """The loop with random images on the device as bytes: four batches of them, in another order each epoch."""
    generator = torch.Generator().manual_seed(0)
    shape = (4 * size.batch, 3, size.image, size.image)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(len(loop.config["facts"]["class_names"]), (4 * size.batch,), generator=generator)
    memory = InMemory(
        {"train": {"image": images, "label": labels}, "val": {"image": images[:1], "label": labels[:1]}},
        loaders=loaders(Loader(size.batch, 0)),
        device=size.device,
        train_eval_samples=0,
    )
    return replace(loop, trainer=replace(loop.trainer, data=memory))


@contextmanager
def folder_of_photographs(size: Size) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plainloop-photographs-") as name:
        photographs.write_all(Path(name) / "photos", size.photos)
        yield Path(name)


def on_photographs(folder: Path, size: Size, model: str, *more: str) -> Ours:
    return ours(
        [
            *("data=image_folder", f"data.root={folder / 'photos'}", f"data.image_size={size.image}", f"model={model}"),
            *(f"data.batch_size={size.batch}", f"device={size.device}", "trainer.precision=bf16"),
            *("trainer.channels_last=true", f"trainer.compile={str(size.compile).lower()}", "trainer.devices=1", *more),
        ]
    )


def compared(size: Size, until: float, **trained: Callable[[int], None]) -> dict[str, list[float]]:
    device = torch.device(size.device)
    contenders = {name: timed("wall", train, device) for name, train in trained.items()}
    return rounds(contenders, pairs=size.pairs, block_s=size.block_s, until=until)[1]


def row(times: list[float], **more: Any) -> Row:
    """A ratio with its interval, and what else is known of it."""
    found = median(times)
    return {"median": found.value, "low": found.low, "high": found.high, "runs": found.n, **more}


def step_of(name: str, size: Size, until: float, folder: Path) -> Iterator[Row]:
    loop = on_the_card(on_photographs(folder, size, size.models[name]), size)
    times = compared(size, until, ours=loop.train, timm=TimmsStep(loop, size).train)
    rate = median([size.batch / seconds for seconds in times["ours"]])
    what = f"{size.models[name]}, bf16, channels-last{', compiled' if size.compile else ''}, batch {size.batch}"
    target = "0.98 or more"
    yield row(ratios(times, "timm", "ours"), case=name, what=f"{what}: share of timm's images/s", target=target)
    yield row([size.batch / s for s in times["ours"]], case=name, what="images/s of our loop")
    peak, macs = gpu_results.peak_of(gpu_results.machine(size.device)["card"]), model_summary(loop.config).macs
    if peak and macs:  # forward, and twice as much backward; two operations each
        share = 6 * macs * rate.value / (peak * 1e12)
        what = f"share of the peak of {peak:g} TFLOP/s, by {macs / 1e9:.3g}G MACs an image"
        yield {"case": name, "what": what, "median": share, "runs": rate.n}


def fed_by_a_folder(size: Size, until: float, folder: Path) -> Iterator[Row]:
    """All contenders train the same compiled model; blocks are long, because each one starts its workers."""
    model, workers = size.models["resnet50"], 12 if size.device == "cuda" else 1
    card = on_the_card(on_photographs(folder, size, model), size)
    kinds = {"none": (), "ram": ("data.cache=ram",), "disk": ("data.cache=disk", f"data.cache_dir={folder / 'cache'}")}
    trained: dict[str, Callable[[int], None]] = {"card": card.train}
    for kind, more in kinds.items():
        fed = on_photographs(folder, size, model, "augment=standard", f"data.num_workers={workers}", *more)
        trained[kind] = replace(card, trainer=fed.trainer).train
    times = compared(replace(size, pairs=min(size.pairs, 7), block_s=3 * size.block_s), until, **trained)
    for kind in kinds:
        what = f"data.cache={kind}, {workers} workers: share of the images/s with images on the card"
        yield row(ratios(times, "card", kind), case="folder", what=what)


def loops_cost(size: Size, until: float, folder: Path) -> Iterator[Row]:
    small = ("data.batch_size=8", f"device={size.device}", "trainer.devices=1")
    for name, typed in {"a linear layer": small, "the default model": small[1:]}.items():
        layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) if name == "a linear layer" else None
        loop = ours(typed, model=layer)
        times = compared(size, until, ours=loop.train, bare=Bare(loop).train)
        more = [1e6 * seconds for seconds in differences(times, "ours", "bare")]
        yield row(more, case="loop", what=f"{name}: microseconds a step more than a bare loop", target="150 or less")
        yield row(ratios(times, "ours", "bare"), case="loop", what=f"{name}: times the bare loop's step")


def fast_against_eager(size: Size, until: float, folder: Path) -> Iterator[Row]:
    typed = ("model=resnet20", "data.batch_size=128", "optimizer=sgd", f"device={size.device}", "trainer.devices=1")
    data = ("augment=crop_flip", *fashion_mnist()) if size.device == "cuda" else ()
    fast, plain = ours([*typed, *data, "trainer=fast"]), ours([*typed, *data])
    times = compared(size, until, fast=fast.train, plain=plain.train, eager=Resident(plain).train)
    what = "trainer=fast: times the images/s of an eager loop by hand, resnet20, batch 128"
    yield row(ratios(times, "eager", "fast"), case="fast", what=what, target="1.3 or more")
    yield row(ratios(times, "plain", "fast"), case="fast", what="times those of trainer=default")


def fashion_mnist() -> tuple[str, ...]:
    """As it is on this machine; digits where it is not."""
    from plainloop.data import fashion_mnist

    packed = ROOT / ".gpu" / "pack" / "fashion-mnist"
    if fashion_mnist.find(None):
        return ("data=fashion_mnist",)
    return ("data=fashion_mnist", f"data.root={packed}") if fashion_mnist.find(str(packed)) else ()


CASES: dict[str, Callable[[Size, float, Path], Iterator[Row]]] = {
    "loop": loops_cost,
    "fast": fast_against_eager,
    "resnet50": lambda *given: step_of("resnet50", *given),
    "vit": lambda *given: step_of("vit", *given),
    "folder": fed_by_a_folder,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--case", action="append", choices=list(CASES), help="all if this is left out")
    parser.add_argument("--results", type=Path, help="folder for what is written")
    arguments = parser.parse_args()

    end = time.monotonic() + 60 * arguments.minutes
    size, chosen = (CARD if arguments.device == "cuda" else TOY), arguments.case or list(CASES)
    if size.device == "cpu":
        torch.set_num_threads(1)
    here, folder = gpu_results.machine(size.device), gpu_results.folder_for(size.device, arguments.results)
    rows: list[Row] = []
    path = folder
    failed = False
    with folder_of_photographs(size) as photos:
        for number, name in enumerate(chosen):
            left = end - time.monotonic()
            share = time.monotonic() + left / (len(chosen) - number)  # what one case leaves, the others have
            try:
                found = CASES[name](size, share, photos) if left > LEAST_S or size.device == "cpu" else iter(())
                measured = list(found) or [{"case": name, "what": "not measured: no time was left"}]
            except Exception as error:  # noqa: BLE001  # one case must not take the others with it
                traceback.print_exc()
                measured, failed = [{"case": name, "what": f"failed: {type(error).__name__}: {error}"[:300]}], True
            rows += measured
            path = gpu_results.write(folder, "speed", here, rows, "Speed on a GPU")
            for one in measured:
                values = [one[key] for key in ("median", "low", "high") if key in one and not math.isnan(one[key])]
                print(name, one["what"], *(f"{value:.4g}" for value in values), flush=True)
    print(f"written to {path}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
