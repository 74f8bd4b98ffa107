"""Compares predicting image files with reading them: how much of the loader's own speed scripts/predict.py keeps.

    python benchmarks/photographs.py /tmp/photographs             # once: makes 5,000 JPEGs
    python benchmarks/predict.py /tmp/photographs                 # trains a small model for one step, then measures

Both read the same files with the same workers, in turns. `loader` throws the batches away; `predict` gives them to the
model, makes the rows, and writes the tables. What happens once, whatever the number of images, is measured apart: it
opens the run, and draws the page of pictures.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pairs import machine, median

from plainloop.commands.predict import predict_all, write
from plainloop.report.predictions import Drawings
from plainloop.run.trained.files import batches_of, find_images, relative_names
from plainloop.run.trained.predictor import load

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("data=image_folder", "model=tiny", "model.width=2", "model.stem_stride=2", "data.num_workers=0", "threads=1")
ONE_STEP = ("trainer.duration=1st", "trainer.eval_every=never", "data.batch_size=8", "data.train_eval_samples=0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of JPEGs, in class folders")
    parser.add_argument("--files", type=int, default=10_000, help="of all blocks; repeated if there are fewer")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--workers", type=int, help="processes that decode (as the command chooses)")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    options.top_k = 5
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = [*SMALL, *ONE_STEP, f"data.root={options.folder}", f"data.image_size={options.size}", "device=cpu"]
        command = [sys.executable, str(ROOT / "train.py"), *words, f"hydra.run.dir={run}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        predictor = load(run)
        files = list(itertools.islice(itertools.cycle(find_images([str(options.folder)])), options.files))
        once = time.perf_counter() - began
        per_block = -(-len(files) // options.blocks)
        times: dict[str, list[float]] = {"loader": [], "predict": []}
        page: Drawings | None = None
        for number in range(options.blocks):
            block = files[number * per_block : (number + 1) * per_block]
            drawings = Drawings(Path(folder), predictor.class_names, relative_names(block))
            if page:
                drawings.samples, drawings.texts = page.samples, page.texts  # full after the first block, as in one run
            page = drawings

            def loader(block: list[Path] = block) -> None:
                given = {"batch_size": options.batch_size, "num_workers": options.workers}
                for _ in batches_of(block, predictor.preprocessing, **given, pin_memory=False, on_bad=print):
                    pass

            def predict(block: list[Path] = block, drawings: Drawings = drawings) -> None:
                rows: dict[int, dict] = {}
                with drawings.open():
                    predict_all(predictor, block, drawings, rows, options)
                write(Path(folder), predictor, rows, options.top_k)

            contenders: list[tuple[str, Callable[[], None]]] = [("loader", loader), ("predict", predict)]
            for name, work in contenders if number % 2 else reversed(contenders):
                began = time.perf_counter()
                work()
                times[name].append((time.perf_counter() - began) / len(block))
        began = time.perf_counter()
        if page:
            page.page("of pictures")
        once += time.perf_counter() - began
    print(machine(torch.device("cpu")))
    for name, seconds in times.items():
        print(f"{name:8} {median([1 / value for value in seconds]).text(',.0f')} images/s, blocks of {per_block}")
    share = median([a / b for a, b in zip(times["loader"], times["predict"], strict=True)])
    print(f"predict / loader {share.text()} of the images/s; {once:.1f} s once")


if __name__ == "__main__":
    main()
