"""Compares the time of our loop per step with a bare PyTorch loop and, if it is installed, with Lightning.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --clock cpu      # CPU seconds instead of wall time: for a busy machine
    pip install lightning                               # then Lightning is measured as well

All loops do the same tensor work on the same data in memory: index a batch of bytes, normalize, forward, cross entropy,
accuracy, backward, one fused AdamW step; losses and accuracies are read every 50 steps. The bare loop does no more.
Ours also seeds the generators at every step, measures the gradient norm at log steps, and checks for signals, bad
numbers, and whether to log, evaluate or save. Targets: at most 1.10 times the bare loop for steps of 2 ms or more, and
at most 150 microseconds more for any step.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from ours import Ours, means, ours
from pairs import CLOCKS, Clock, Contender, differences, machine, median, ratios, rounds, timed
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.loop.normalize import Normalize

# The first has almost no tensor work, so its time is the loop's own.
CASES: dict[str, tuple[Callable[[], nn.Module] | None, list[str]]] = {
    "a linear layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ["data.batch_size=8"]),
    "about 2 ms": (None, ["data.batch_size=32"]),
    "the default": (None, []),
}
READ_EVERY = 50


class Bare:
    """The loop that one writes by hand."""

    def __init__(self, loop: Ours) -> None:
        self.model = copy.deepcopy(loop.state.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
        self.batch_size = loop.trainer.data.batch_size
        self.images, self.labels = whole_epoch(loop)
        normalize = Normalize(**means(loop.config), device=loop.trainer.device)
        self.shift, self.scale = normalize.shift, normalize.scale
        self.step = 0
        self.order = torch.empty(0, dtype=torch.long)
        self.losses: list[Tensor] = []

    def train(self, steps: int) -> None:
        self.model.train()
        for _ in range(steps):
            image, label = self.batch()
            self.optimizer.param_groups[0]["lr"] = 0.5e-3 * (1 + math.cos(math.pi * self.step / 1e8))
            loss, top1 = loss_and_top1(self.model, image, label)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses += [loss.detach(), top1]
            self.step += 1
            if self.step % READ_EVERY == 0:
                torch.stack(self.losses).tolist()
                self.losses.clear()

    def batch(self) -> tuple[Tensor, Tensor]:
        steps_per_epoch = len(self.images) // self.batch_size
        position = self.step % steps_per_epoch
        if position == 0 or len(self.order) == 0:
            self.order = torch.randperm(len(self.images), device=self.images.device)
        index = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        image = self.images.index_select(0, index).float().div_(255)
        return torch.addcmul(self.shift, image, self.scale), self.labels.index_select(0, index)


def whole_epoch(loop: Ours) -> tuple[Tensor, Tensor]:
    """The training images and labels, as bytes and numbers on the device."""
    batches = list(loop.trainer.data.train_batches(0, loop.trainer.steps_per_epoch, seed=0))
    return torch.cat([batch["image"] for batch in batches]), torch.cat([batch["label"] for batch in batches])


def loss_and_top1(model: nn.Module, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(image)
    top1 = torch.count_nonzero(logits.detach().argmax(1) == label) / len(label)
    return F.cross_entropy(logits, label), top1


def lightning_contender(loop: Ours, clock: Clock) -> Contender:
    """Lightning's Trainer without logger, checkpoints, progress bar and summary, on the bare loop's batches.

    The time is that from its first step to its last.
    """
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    bare, read = Bare(loop), CLOCKS[clock]

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = bare.model

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            loss, top1 = loss_and_top1(self.model, *batch)
            self.log_dict({"train/loss": loss, "train/top1": top1})
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return bare.optimizer

        def on_train_start(self) -> None:
            self.since = read()

        def on_train_end(self) -> None:
            self.seconds = read() - self.since

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield bare.batch()
                bare.step += 1

    module = Module()
    loader = torch.utils.data.DataLoader(Batches(), batch_size=None)

    def run(steps: int) -> float:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="gpu" if loop.trainer.device.type == "cuda" else "cpu",
            devices=1,
            log_every_n_steps=READ_EVERY,
            enable_model_summary=False,
            **quiet,
        )
        trainer.fit(module, loader)
        return module.seconds

    return run


def contenders(case: str, overrides: list[str], clock: Clock) -> dict[str, Contender]:
    model, settings = CASES[case]
    loop = ours([*settings, *overrides], model=model() if model else None)
    device = loop.trainer.device
    found = {"ours": timed(clock, loop.train, device), "bare": timed(clock, Bare(loop).train, device)}
    if importlib.util.find_spec("lightning"):
        found["lightning"] = lightning_contender(loop, clock)
    return found


def report(case: str, steps: int, times: dict[str, list[float]], clock: Clock) -> None:
    bare = median(times["bare"])
    print(f"\n{case}: bare step {bare.value * 1e3:.2f} ms; {bare.n} rounds of {steps} steps each, {clock} time")
    for name in [name for name in times if name != "bare"]:
        more = median([1e6 * value for value in differences(times, name, "bare")])
        print(f"  {name:<10} {median(ratios(times, name, 'bare')).text()} x bare   {more.text('+.0f')} us per step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21, help="rounds; 15 or more for a sound interval")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="least length of a block")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--case", choices=list(CASES), action="append", help="one case; all if this is left out")
    parser.add_argument("overrides", nargs="*", help="as for train.py, for all cases: device=cuda")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")  # Lightning's advice about data loaders
    start = time.perf_counter()
    for case in arguments.case or CASES:
        found = contenders(case, arguments.overrides, arguments.clock)
        steps, times = rounds(found, pairs=arguments.pairs, block_s=arguments.block_seconds)
        report(case, steps, times, arguments.clock)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"\n{machine(device)}; median [95 % interval]; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
