"""Predicts images with the model of a run: names and probabilities, or masks and overlays, as its task gives them.

images= takes a file, a folder, a pattern in quotes, or a list of files (.txt, one path in each line); several with
commas. Writes predictions.csv, predictions.json and predictions.png, and for masks the folders masks/ and overlays/,
into <run dir>/predictions, or --out. A file that cannot be read is a row that says why; the exit code is 65 where no
file can be read.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.commands.composed import answer, parser_of, take_word
from plainloop.errors import BadConfig, BadData, printable
from plainloop.loggers.screen import counting
from plainloop.system.tables import as_cell

if TYPE_CHECKING:
    from plainloop.contracts import Batch
    from plainloop.report.predictions import Drawings
    from plainloop.run.trained.predictor import Predictor

EXAMPLES = (
    "run=outputs/train/2026-01-31_12-00-00-000000 images=cat.jpg",
    "run=<run dir> images=/data/new_photos --top-k 3 --out outputs/new_photos",
    "run=<run dir> images='photos/**/*.png' checkpoint=last device=cpu",
)
WORDS = ("run", "checkpoint", "device", "plugins")  # beside images
SHOWN = 10  # rows on the screen
WRITTEN = {"label", "mask"}  # entries of results


def main(arguments: Sequence[str]) -> int:
    """`python scripts/predict.py`; the exit code."""
    parser = parser_of("predict", __doc__ or "", EXAMPLES)
    parser.usage = "python scripts/predict.py run=<run dir> images=<file, folder, pattern or list> [options]"
    add = parser.add_argument_group("words").add_argument
    add("run=RUN", nargs="?", help="a run directory, or a checkpoint in one")
    add("images=I", nargs="?", help="what to predict")
    add("checkpoint=C", nargs="?", help="best (the default), last, or a step")
    add("device=D", nargs="?", help="auto, cuda, cpu or mps (the run's)")
    add("plugins=P", nargs="?", help="packages of your own that the run's config names: plugins=[mine]")
    parser.add_argument("--out", type=Path, help="the folder for the results")
    parser.add_argument("--top-k", type=int, default=5, help="classes of each image that are written (%(default)s)")
    parser.add_argument("--batch-size", type=int, help="images of one size in one pass (64; 16 on a CPU)")
    parser.add_argument("--workers", type=int, help="processes that decode (four, or fewer where CPUs are few)")
    options, words = parser.parse_known_args(arguments)
    words = [*(value for name, value in vars(options).items() if "=" in name and value), *words]
    return answer(lambda: predict(words, options))


def predict(words: list[str], options: argparse.Namespace) -> int:
    images = [word.removeprefix("images=") for word in words if word.startswith("images=")]
    images += [word for word in words if "=" not in word and not word.startswith("-")]  # the shell's own *.jpg
    words = [word for word in words if not word.startswith("images=") and word not in images]
    run, checkpoint, device, plugins = (take_word(name, words) for name in WORDS)
    if words:
        known = ", ".join(f"{name}=" for name in ("images", *WORDS))
        raise BadConfig(f"{words[0]} is not known here: the words are {known}", hint="--help lists words and options")
    for name, value in (("run", run), ("images", images)):
        if not value:
            raise BadConfig(f"{name}= is missing", hint=f"type: {EXAMPLES[0]}; --help has more examples")
    for name in ("top_k", "batch_size", "workers"):
        if (value := getattr(options, name)) is not None and value < (name != "workers"):
            raise BadConfig(f"--{name.replace('_', '-')} {value} must be {int(name != 'workers')} or more")
    import torch

    from plainloop.report.predictions import Drawings
    from plainloop.run.run import num_threads
    from plainloop.run.trained.files import find_images, relative_names
    from plainloop.run.trained.predictor import load
    from plainloop.system import storage

    paths = find_images(images)
    own = [name for name in (plugins or "").strip("[]").split(",") if name]
    predictor = load(run or "", checkpoint or "best", device=device, plugins=own)
    torch.set_num_threads(num_threads(predictor.trained.config, predictor.trained.folder))  # as evaluations have them
    out = options.out or predictor.trained.folder / "predictions"
    storage.make_folder(out)
    drawings = Drawings(out, predictor.class_names, relative_names(paths))
    began, rows = time.monotonic(), dict[int, dict[str, Any]]()
    try:
        with drawings.open():
            predict_all(predictor, paths, drawings, rows, options)
    finally:
        write(out, predictor, rows, options.top_k)
        number = len(drawings.samples)
        title = f"{predictor.trained.folder.name}: the first {number} of {len(paths)}"
        if page := drawings.page(title):
            page.save(out / "predictions.png")
    tell(rows, out, time.monotonic() - began, options.top_k, predictor)
    return BadData.code if all("problem" in row for row in rows.values()) else 0


def predict_all(
    predictor: Predictor,
    paths: Sequence[Path],
    drawings: Drawings,
    rows: dict[int, dict[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Adds a row for each path, by its number."""
    from plainloop.run.trained.files import batches_of

    def bad(index: int, why: str) -> None:
        rows[index] = {"file": str(paths[index]), "problem": why}

    batches = batches_of(
        paths,
        predictor.preprocessing,
        batch_size=options.batch_size or predictor.batch_size,
        num_workers=options.workers,
        pin_memory=predictor.trained.device.type == "cuda",
        on_bad=bad,
    )
    with counting("predicting") as show:
        for batch in batches:
            numbers = batch["index"].tolist()
            try:
                results = predictor.results({"image": batch["image"]})
            except ValueError as error:  # the model does not take images of this size
                for number in numbers:
                    bad(number, str(error))
                continue
            if not results.keys() & WRITTEN:
                raise BadConfig(
                    f"the run's task gives {', '.join(results)} for an image; what can be written is "
                    + " and ".join(sorted(WRITTEN)),
                )
            written = rows_of(predictor, [paths[number] for number in numbers], batch, results, drawings, options.top_k)
            rows.update(zip(numbers, written, strict=True))
            show(len(rows), len(paths))


def rows_of(
    predictor: Predictor, paths: Sequence[Path], batch: Batch, results: Batch, drawings: Drawings, top_k: int
) -> list[dict[str, Any]]:
    """What is written of each image: its file, those that were made of it, and its first classes."""
    from plainloop.run.trained.predictor import of_size, ranked, shares

    names, rows = predictor.class_names, []
    best = ranked(results["label"], names, top_k) if "label" in results else None
    for row, path in enumerate(paths):
        result = {name: values[row] for name, values in results.items()}
        found: dict[str, Any] = {"file": str(path)}
        if "mask" in result:
            result["mask"] = of_size(result["mask"], batch["size"][row].tolist())
        if files := drawings.add(int(batch["index"][row]), path, batch["image"][row], result):
            found |= {**files, "shares": dict(list(shares(result["mask"].numpy(), names).items())[:top_k])}
        if best:
            found["probabilities"] = best[row]
        rows.append(found)
    return rows


def write(out: Path, predictor: Predictor, rows: dict[int, dict[str, Any]], top_k: int) -> None:
    """predictions.csv and predictions.json, of all rows that there are by now."""
    from plainloop.system import storage

    found = [rows[number] for number in sorted(rows)]
    trained = predictor.trained
    about = {"run": str(trained.folder), "weights": trained.weights, "classes": list(predictor.class_names)}
    storage.write_json(out / "predictions.json", {**about, "images": found})
    files = [name for name in ("mask", "overlay") if any(name in row for row in found)]
    word = "share" if files else "probability"
    top = range(1, 1 + min(top_k, len(predictor.class_names)))
    heads = [head for number in top for head in (f"class_{number}", f"{word}_{number}")]
    try:
        with (out / "predictions.csv").open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", *heads, *files, "problem"])
            for row in found:
                best = [cell for pair in classes_of(row).items() for cell in pair]
                cells = [row["file"], *best, *[""] * (len(heads) - len(best))]
                table.writerow(map(as_cell, [*cells, *(row.get(name, "") for name in files), row.get("problem", "")]))
    except OSError as error:
        raise storage.cannot_write(out / "predictions.csv", 0, error) from error


def classes_of(row: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = row.get("probabilities") or row.get("shares") or {}
    return found


def tell(rows: dict[int, dict[str, Any]], out: Path, seconds: float, top_k: int, predictor: Predictor) -> None:
    bad = [row for row in rows.values() if "problem" in row]
    say(f"run     {predictor.trained.folder}: {predictor.trained.weights}")
    width = max(len(row["file"]) for row in rows.values())
    for number in sorted(rows)[:SHOWN]:
        row = rows[number]
        best = ", ".join(f"{name} {share:.1%}" for name, share in list(classes_of(row).items())[:3])
        say(f"{row['file']:<{min(width, 50)}}  {best or row['problem'].removeprefix(row['file']).strip()}")
    if len(rows) > SHOWN:
        say(f"... and {len(rows) - SHOWN:,} more in predictions.csv")
    unread = f", {len(bad):,} could not be read" if bad else ""
    speed = f", {len(rows) / seconds:,.0f} images/s" if len(rows) > SHOWN else ""
    say(f"written {out}: {len(rows):,} image{'s' * (len(rows) > 1)}{unread}{speed}")


def say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
