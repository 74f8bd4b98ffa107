"""What trained weights are worth on few labelled images: five classes of Fashion-MNIST, 100 images of the other five.

    python benchmarks/finetune.py            # six minutes of CPU time; writes outputs/finetune_benchmark/
    python benchmarks/finetune.py --swap --folder outputs/finetune_swapped
    python benchmarks/finetune.py --seeds 2 --epochs 1 --folder /tmp/quick

Trains on five classes, then on 100 images of the others: from those weights and from scratch, each at three rates; at
the rate of PaddleClas's guide; and with a frozen backbone. Pairs of runs with the same seed, each against the best rate
from scratch, give the interval.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ODD = "[Trouser,Dress,Sandal,Sneaker,Ankle boot]"
EVEN = "[T-shirt/top,Pullover,Coat,Shirt,Bag]"  # harder: four of them look alike
RATES = (0.03, 0.1, 0.3)  # of SGD at batch 256
SHARED = (
    *("data=fashion_mnist", "model=tiny", "model.stem_stride=2", "model.width=32", "threads=1"),
    *("trainer.channels_last=true", "data.train_eval_samples=0"),
)
FEW = (
    *("experiment=finetune", *SHARED, "data.max_train_samples=100"),
    *("data.batch_size=20", "trainer.eval_every=100%"),
)
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # two-sided


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of training on the first five classes (3)")
    parser.add_argument("--few-epochs", type=int, default=60, help="on the 100 images (60)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/finetune_benchmark"), help="%(default)s")
    parser.add_argument("--swap", action="store_true", help="trains on the even classes first, then on the odd ones")
    options = parser.parse_args()
    folder, seeds = options.folder.absolute(), ",".join(map(str, range(options.seeds)))
    first, second = (EVEN, ODD) if options.swap else (ODD, EVEN)
    few = (*FEW, f"data.only_classes={second}", f"seed={seeds}", f"trainer.duration={options.few_epochs}ep")
    before = (*SHARED, f"data.only_classes={first}", f"seed={seeds}", f"trainer.duration={options.epochs}ep")
    sweep(folder / "before", *before, "optimizer.lr=0.003", "trainer.eval_every=100%")
    start = f"init_from={folder}/before/${{seed}}"
    arms: dict[str, tuple[str, ...]] = {"fine-tuned, the guide's rate 0.001": (start,)}
    arms["fine-tuned, backbone frozen, rate 0.3"] = (start, "trainer.freeze=backbone", "optimizer.lr=0.3")
    for lr in RATES:
        arms[f"fine-tuned, rate {lr}"] = (start, f"optimizer.lr={lr}")
        arms[f"from scratch, rate {lr}"] = (f"optimizer.lr={lr}", "trainer.param_groups.lr_scale={}")
    folders = {name: folder / re.sub(r"[^a-z0-9.]+", "_", name) for name in arms}
    for name, overrides in arms.items():
        sweep(folders[name], *few, *overrides)
    found = {name: accuracies(folders[name], options.seeds) for name in arms}
    scratch = max((name for name in found if "scratch" in name), key=lambda name: statistics.fmean(found[name]))
    sys.stdout.writelines(f"{line}\n" for line in table(found, scratch))
    (folder / "results.json").write_text(json.dumps(found, indent=1))
    return 0


def sweep(folder: Path, *overrides: str) -> None:
    """One job for each seed, in a folder of its number; jobs that are done stay."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, f"hydra.sweep.dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def accuracies(folder: Path, seeds: int) -> list[float]:
    """val/top1 at the end of each run, so that no run chooses its best evaluation."""
    return [json.loads((folder / str(seed) / "summary.json").read_text())["final"]["val/top1"] for seed in range(seeds)]


def table(found: dict[str, list[float]], scratch: str) -> list[str]:
    lines = [
        "| 100 images | val/top1, mean ± standard deviation | more than from scratch, paired, 95 % |",
        "|---|---|---|",
    ]
    for name, values in found.items():
        gain = "" if "scratch" in name else interval(values, found[scratch])
        best = ", the best of three" if name == scratch else ""
        lines.append(f"| {name}{best} | {statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f} | {gain} |")
    return lines


def interval(values: list[float], others: list[float]) -> str:
    """
    >>> interval([0.8, 0.9, 0.85], [0.7, 0.75, 0.8])
    '0.1000 (-0.0242 to 0.2242)'
    """
    pairs = [one - other for one, other in zip(values, others, strict=True)]
    mean, half = statistics.fmean(pairs), T_95[len(pairs) - 1] * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})"


if __name__ == "__main__":
    raise SystemExit(main())
