"""Trains published recipes seed by seed, for some minutes at a time; each call continues where the last one ended.

    make recipe-gpu
    make recipe-gpu ARGS="--seeds 10 --minutes 8 --jobs-per-gpu 4 trainer.precision=bf16"
    make recipe-gpu ARGS="--from recipes.tar.gz --to recipes.tar.gz"    # on a machine that keeps no files

The runs are one sweep in outputs/gpu_recipes, whose jobs share the card. When time ends they save and stop. What is
done is written to benchmarks/results with mean and spread, beside the published numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_results
import yaml

ROOT = Path(__file__).resolve().parent.parent
LEFT_BEHIND = ("last.safetensors", "train.log", "run.lock", "run.lease")
SAVING_S = 30.0  # for the jobs to save and leave, and for the results
PACKED = ROOT / ".gpu" / "pack" / "fashion-mnist"

RECIPES = ("fashion_mnist_resnet20", "fashion_mnist_resnet20_re", "cifar10_resnet20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs-per-gpu", type=int, default=4, help="runs that share the card")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="all whose data are here")
    parser.add_argument("--sweep", type=Path, default=ROOT / "outputs" / "gpu_recipes")
    parser.add_argument("--from", type=Path, dest="source", help="an archive that an earlier call wrote with --to")
    parser.add_argument("--to", type=Path, dest="target", help="an archive of what the next call needs")
    parser.add_argument("--results", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train.py, for all runs")
    arguments = parser.parse_args()

    until = time.monotonic() + 60 * arguments.minutes
    if arguments.source and arguments.source.exists() and not arguments.sweep.exists():
        unpack(arguments.source, arguments.sweep)
    recipes = arguments.recipe or [recipe for recipe in RECIPES if data_of(recipe) is not None]
    code = run(sweep_command(arguments, recipes), until - SAVING_S)
    here = gpu_results.machine(arguments.device)
    folder = gpu_results.folder_for(arguments.device, arguments.results)
    path = gpu_results.write(folder, "recipes", here, rows_of(arguments.sweep), "Recipes on a GPU")
    if arguments.target:
        pack(arguments.sweep, arguments.target)
    print(path.read_text())
    left = [job.name for job in jobs_of(arguments.sweep) if state_of(job) != "DONE"]
    print(f"not done: {', '.join(left)}; the same command continues them" if left else "all runs are done")
    if code not in (0, 128 + signal.SIGTERM, 75):
        sys.exit(code)


def sweep_command(arguments: argparse.Namespace, recipes: list[str]) -> list[str]:
    """One seed of every recipe, then the next seed: the first jobs to be done compare the recipes."""
    share = f"hydra.launcher.{'jobs_per_gpu' if arguments.device == 'cuda' else 'slots'}={arguments.jobs_per_gpu}"
    roots = {data_of(recipe) or "" for recipe in recipes}
    if len(roots) > 1 or not recipes:
        found = f"in several folders ({', '.join(sorted(roots))})" if recipes else "not here"
        sys.exit(f"the data of the recipes are {found}: type --recipe <one of {', '.join(RECIPES)}> data.root=<folder>")
    return [
        *(sys.executable, str(ROOT / "train.py"), "-m", "hydra/launcher=gpu_pool", share),
        *(f"hydra.sweep.dir={arguments.sweep}", f"device={arguments.device}", "trainer.devices=1"),
        f"seed={','.join(map(str, range(arguments.seeds)))}",
        f"experiment={','.join(recipes)}",
        *(f"data.root={root}" for root in roots if root),
        *arguments.overrides,
    ]


def data_of(recipe: str) -> str | None:
    """The folder of a recipe's data; "" where the source finds it by itself, None where it is not here."""
    from plainloop.data import fashion_mnist
    from plainloop.data.loading.download import cache_folder

    if recipe.startswith("fashion_mnist"):
        return "" if fashion_mnist.find(None) else str(PACKED) if fashion_mnist.find(str(PACKED)) else None
    return "" if (cache_folder() / "cifar-10-batches-py").is_dir() else None


def run(command: list[str], until: float) -> int:
    """Runs the sweep, and has it save and stop when time ends; its exit code."""
    print(" ".join(command), flush=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    sweep = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        return sweep.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("time ends: the runs save and stop", flush=True)
        sweep.send_signal(signal.SIGTERM)
        return sweep.wait()
    except KeyboardInterrupt:
        return sweep.wait()  # it has got the signal as well


def jobs_of(sweep: Path) -> list[Path]:
    return sorted((path.parent for path in sweep.glob("*/status.json")), key=lambda job: (len(job.name), job.name))


def state_of(job: Path) -> str:
    return str(json.loads((job / "status.json").read_text())["state"])


def rows_of(sweep: Path) -> list[dict[str, Any]]:
    """One row a recipe: the error of the best epoch over the seeds that are done, and of the last epoch."""
    found: dict[str, list[dict[str, Any]]] = {}
    published: dict[str, float | None] = {}
    for job in jobs_of(sweep):
        config = yaml.safe_load((job / "config.yaml").read_text()) if (job / "config.yaml").exists() else None
        if config and state_of(job) == "DONE":
            summary = json.loads((job / "summary.json").read_text())
            seed = {"seed": config["seed"], "best": summary["best"]["value"], "seconds": summary["seconds"]}
            seed |= {"last": summary["final"]["val/top1"], "images_per_s": summary["images_per_s"]}
            found.setdefault(config["name"], []).append(seed)
            rows = (config.get("published") or {}).get("rows", ())  # the recipe as it is comes first
            published[config["name"]] = round(100 * (1 - rows[0]["value"]), 2) if rows else None
    return [row_of(name, seeds, published[name]) for name, seeds in found.items()]


def row_of(name: str, seeds: list[dict[str, Any]], published: float | None) -> dict[str, Any]:
    best, last = ([100 * (1 - seed[key]) for seed in seeds] for key in ("best", "last"))
    return {
        "recipe": name,
        "error, best epoch (%)": spread(best),
        "published (%)": published,
        "error, last epoch (%)": spread(last),
        "n": len(seeds),
        "training, s a run": statistics.median(seed["seconds"] for seed in seeds),
        "images/s a run": statistics.median(seed["images_per_s"] for seed in seeds),
        "seeds": seeds,
    }


def spread(values: list[float]) -> str:
    """Mean, and standard deviation over the seeds.

    >>> spread([4.0, 4.2]), spread([4.0])
    ('4.10 ± 0.14', '4.00')
    """
    mean = math.fsum(values) / len(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def needed(sweep: Path) -> Iterator[Path]:
    """Files that the next call needs: of a run that is done no weights, of another its newest checkpoint alone."""
    for path in sorted(sweep.rglob("*")):
        job, inside = path.relative_to(sweep).parts[0], path.relative_to(sweep).parts[1:]
        if not path.is_file() or path.name in LEFT_BEHIND:
            continue
        done = (sweep / job / "status.json").exists() and state_of(sweep / job) == "DONE"
        in_checkpoints = inside[:1] == ("checkpoints",)
        if (in_checkpoints or path.suffix == ".safetensors") and done:
            continue
        if in_checkpoints and path.name.startswith("step_") and path.name.split(".")[0] != newest(path.parent):
            continue
        yield path


def newest(checkpoints: Path) -> str:
    return max((path.stem for path in checkpoints.glob("step_*.json")), default="")


def pack(sweep: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:gz") as archive:
        for path in needed(sweep):
            archive.add(path, path.relative_to(sweep))
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")


def unpack(source: Path, sweep: Path) -> None:
    with tarfile.open(source) as archive:
        archive.extractall(sweep, filter="data")


if __name__ == "__main__":
    main()
