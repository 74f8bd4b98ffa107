"""What logging costs a run on Fashion-MNIST: metrics.jsonl, TensorBoard and wandb offline together.

    python benchmarks/loggers.py
    python benchmarks/loggers.py --clock cpu       # CPU seconds of this process, for a busy machine

Two equal runs, one without any logger, train the default model; blocks of steps take turns. Rows alone are timed, too;
and apart from that starting and finishing, which a run does once. Target: at most 1.02 times the run without.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ours import Ours, ours
from pairs import CLOCKS, Clock, Contender, machine, median, ratios, rounds, timed

from plainloop.contracts import Logger
from plainloop.loggers.jsonl import Jsonl
from plainloop.loggers.tensorboard import TensorBoard
from plainloop.loggers.wandb import Wandb
from plainloop.run_dir.recorder import Silent

EVERY = 50  # steps from row to row
ROWS = 200  # that are timed by themselves: one row is less than the noise of a block


class Logging(Silent):
    """A recorder that does nothing but log."""

    def __init__(self, folder: Path, loggers: Sequence[Logger]) -> None:
        super().__init__(folder)
        self.loggers = loggers

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None:
        for logger in self.loggers:
            logger.log(step, scalars)


def contender(clock: Clock, loop: Ours) -> Contender:
    return timed(clock, loop.train, loop.trainer.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument(
        "--block-seconds", type=float, default=2.0, help="each ends with a row, so short ones make it dearer"
    )
    parser.add_argument("--data", default="fashion_mnist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, loggers = Path(name), [Jsonl(), TensorBoard(), Wandb(mode="offline")]
        words = [f"data={options.data}", f"trainer.log_every={EVERY}"]
        without, with_all = ours(words), ours(words)
        with_all.trainer = replace(with_all.trainer, recorder=Logging(folder, loggers))
        began = time.perf_counter()
        for logger in loggers:
            logger.start(folder, with_all.config, 0)
        started = time.perf_counter() - began
        loops = {"without": contender(options.clock, without), "with": contender(options.clock, with_all)}
        steps, times = rounds(loops, pairs=options.pairs, block_s=options.block_seconds)
        last = {key: float(number) for number, key in enumerate(("epoch", "train/loss", "train/lr", *"abcdefghi"))}
        began = CLOCKS[options.clock]()
        for row in range(ROWS):
            with_all.trainer.recorder.row(with_all.state.step + 1 + row, last, best=False)
        a_row = (CLOCKS[options.clock]() - began) / ROWS
        began = time.perf_counter()
        for logger in loggers:
            logger.finish({"steps": with_all.state.step, "best": None})
        finished = time.perf_counter() - began
    found = median(ratios(times, "with", "without"))
    print(f"logging: {found.text()} x the run without; {found.n} rounds of {steps} steps, {options.clock} time")
    share = a_row / (EVERY * median(times["without"]).value)
    print(f"a row: {1e6 * a_row:.0f} us, {share:.2%} of {EVERY} steps")
    print(f"once: {started:.2f} s to start the three, {finished:.2f} s to finish them")
    print(machine(without.trainer.device))


if __name__ == "__main__":
    main()
