"""Measures a save: its bytes, the seconds for which training waits, and its share of a run's time.

    python benchmarks/checkpoint.py                          # 200 MB into memory (/dev/shm): hashing and copying alone
    python benchmarks/checkpoint.py --folder . --model resnet50   # a model with AdamW and EMA, to this disk

Training waits for the whole save. Targets: 200 MB/s in memory, with hash and fsync; at most 5 % of the time of a run
that saves at the default interval.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from plainloop.run_dir.checkpoint_format import describe, state_to_bytes
from plainloop.run_dir.checkpoints import Checkpoints


def state_of_size(megabytes: int) -> dict[str, Any]:
    """Tensors of 4 MB each, as a large model has them."""
    return {"model": {f"layer{i}": torch.randn(1_000_000) for i in range(max(1, megabytes // 4))}, "step": 0}


def state_of_model(name: str) -> dict[str, Any]:
    """A timm model after one step of AdamW, and its EMA."""
    import timm

    model = timm.create_model(name)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    average = {key: value.clone() for key, value in model.state_dict().items()}
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": average, "step": 0}


def seconds(work: Any, *arguments: Any, **settings: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work(*arguments, **settings)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="on the disk to be measured")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the state if no model is given")
    parser.add_argument("--model", help="a timm model instead, with AdamW and EMA")
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--every-minutes", type=float, default=10.0, help="time between two saves, for the share")
    arguments = parser.parse_args()

    state = state_of_model(arguments.model) if arguments.model else state_of_size(arguments.megabytes)
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-benchmark-", dir=arguments.folder))
    try:
        checkpoints = Checkpoints(folder)
        stalls = [
            seconds(checkpoints.save, {**state, "step": step}, step=step, best=step == 2, metric="m", value=0.5)[0]
            for step in range(1, arguments.saves + 1)
        ]
        serialised, data = seconds(state_to_bytes, state)
        hashed, _ = seconds(describe, data, step=1, final=False, best=None)
        loaded, _ = seconds(Checkpoints(folder).newest)
        stall = statistics.median(stalls)
        rate = len(data) / 1e6 / stall
        print(f"bytes          {len(data):>15,}")
        print(f"serialise      {serialised:>15.3f} s")
        print(f"hash           {hashed:>15.3f} s")
        print(f"stall of one   {stall:>15.3f} s   median of {len(stalls)}, {min(stalls):.3f} to {max(stalls):.3f}")
        print(f"total of all   {sum(stalls):>15.3f} s")
        print(f"rate           {rate:>15.0f} MB/s   with hash and fsync")
        print(f"verified load  {loaded:>15.3f} s")
        share = 100 * stall / (60 * arguments.every_minutes)
        print(f"share of a run {share:>15.2f} %   every {arguments.every_minutes} min")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
