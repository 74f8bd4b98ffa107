"""Compares training on Fashion-MNIST with the model alone: what data, augmentation and metrics cost.

    python benchmarks/throughput.py                       # resnet20, batches of 128
    python benchmarks/throughput.py model=tiny trainer.channels_last=true
    python benchmarks/throughput.py --data digits         # without Fashion-MNIST

One side is our loop: it indexes batches in memory, crops, flips, erases and mixes them (augment=crop_flip: no more than
that), normalizes, trains, computes metrics, logs. The other is the same model's forward, backward and optimizer step on
one batch that never changes. Targets: 0.95 of its images/s on Fashion-MNIST, 0.85 on the digits with a tiny model.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from ours import Ours, ours
from pairs import machine, median, ratios, rounds, timed
from torch.nn import functional as F

from plainloop.loop.normalize import to_device


class Resident:
    """Forward, backward and optimizer step on one batch that is already on the device and normalized."""

    def __init__(self, loop: Ours) -> None:
        trainer = loop.trainer
        self.model = copy.deepcopy(loop.state.model)
        self.optimizer = type(loop.state.optimizer)(self.model.parameters(), **loop.state.optimizer.defaults)
        batch = next(iter(trainer.data.train_batches(0, 1, seed=0)))
        batch = trainer.normalize(trainer.prepare(to_device(batch, trainer.device)))
        self.image, self.label = batch["image"], batch["label"]
        self.autocast = trainer.autocast

    def train(self, steps: int) -> None:
        self.model.train()
        for _ in range(steps):
            with self.autocast():
                loss = F.cross_entropy(self.model(self.image), self.label)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21, help="rounds; 15 or more for a sound interval")
    parser.add_argument("--block-seconds", type=float, default=2.0, help="least length of a block")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument(
        "overrides", nargs="*", help="as for train.py, later ones win: model=tiny trainer.precision=bf16"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    given = [f"data={arguments.data}", "optimizer=sgd", *arguments.overrides]
    for default in ("model=resnet20", "augment=[crop_flip,random_erasing,cutmix]"):
        if not any(override.startswith(default.partition("=")[0] + "=") for override in given):
            given.append(default)
    loop = ours(given)
    clock, device = arguments.clock, loop.trainer.device
    contenders = {"ours": timed(clock, loop.train, device), "resident": timed(clock, Resident(loop).train, device)}
    steps, times = rounds(contenders, pairs=arguments.pairs, block_s=arguments.block_seconds)

    batch_size, num_train = loop.trainer.data.batch_size, loop.config["facts"]["num_train"]
    print(f"{' '.join(given)}; {arguments.pairs} rounds of {steps} steps of {batch_size} images, {clock} time")
    for name, values in times.items():
        rate = median([batch_size / value for value in values])
        print(f"  {name:<10} {rate.text(',.0f')} images/s   an epoch in {num_train / rate.value:.1f} s")
    print(f"  ours / resident {median(ratios(times, 'resident', 'ours')).text()} of the images/s")
    print(f"{machine(device)}; median [95 % interval]; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
