"""Predicts images with the model of a run: names and probabilities, masks, or objects with boxes, as its task gives.

images= takes a file, a folder, a pattern in quotes, or a list of files (.txt, one path in each line); several with
commas. Writes predictions.csv, predictions.json and predictions.png into <run dir>/predictions, or --out; for masks
also the folders masks/ and overlays/, for objects overlays/ and predictions_coco.json. A file that cannot be read is a
row that says why; the exit code is 65 where no file can be read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.commands.composed import (
    RUN_WORDS,
    answer,
    parse_words,
    parser_of,
    plugins_of,
    refuse_others,
    say,
    take_word,
)
from plainloop.errors import BadConfig, BadData
from plainloop.loggers.screen import counting

if TYPE_CHECKING:
    from plainloop.contracts import Batch
    from plainloop.report.predictions import Drawings
    from plainloop.run.trained.predictor import Predictor
    from plainloop.tasks.boxes.found import Found

EXAMPLES = (
    "run=outputs/train/2026-01-31_12-00-00-000000 images=cat.jpg",
    "run=<run dir> images=/data/new_photos --top-k 3 --out outputs/new_photos",
    "run=<run dir> images='photos/**/*.png' checkpoint=last device=cpu",
)
WORDS = ("run", "checkpoint", "device", "plugins")  # beside images
HELP_OF = RUN_WORDS | {"images=I": "what to predict", "device=D": "auto, cuda, cpu or mps (the run's)"}
SHOWN = 10  # rows on the screen
WRITTEN = {"label", "mask", "boxes"}  # entries of results


def main(arguments: Sequence[str]) -> int:
    """`python scripts/predict.py`; the exit code."""
    parser = parser_of("predict", __doc__ or "", EXAMPLES)
    parser.usage = "python scripts/predict.py run=<run dir> images=<file, folder, pattern or list> [options]"
    parser.add_argument("--out", type=Path, help="the folder for the results")
    parser.add_argument("--top-k", type=int, default=5, help="classes of each image that are written (%(default)s)")
    parser.add_argument(
        "--least-score",
        type=float,
        help="of objects (0.3; all are in predictions_coco.json, unless it is given)",
    )
    parser.add_argument("--batch-size", type=int, help="images of one size in one pass (64; 16 on a CPU)")
    parser.add_argument("--workers", type=int, help="processes that decode (four, or fewer where CPUs are few)")
    options, words = parse_words(parser, arguments, HELP_OF)
    return answer(lambda: predict(words, options))


def predict(words: list[str], options: argparse.Namespace) -> int:
    images = [word.removeprefix("images=") for word in words if word.startswith("images=")]
    images += [word for word in words if "=" not in word and not word.startswith("-")]  # the shell's own *.jpg
    words = [word for word in words if not word.startswith("images=") and word not in images]
    run, checkpoint, device, plugins = (take_word(name, words) for name in WORDS)
    refuse_others(words, ("images", *WORDS))
    for name, value in (("run", run), ("images", images)):
        if not value:
            raise BadConfig(f"{name}= is missing", hint=f"type: {EXAMPLES[0]}; --help has more examples")
    for name in ("top_k", "batch_size", "workers"):
        if (value := getattr(options, name)) is not None and value < (name != "workers"):
            raise BadConfig(f"--{name.replace('_', '-')} {value} must be {int(name != 'workers')} or more")
    if options.least_score is not None and not 0 <= options.least_score <= 1:
        raise BadConfig(f"--least-score {options.least_score} must lie between 0 and 1")
    import torch

    from plainloop.report.predictions import Drawings
    from plainloop.run.run import num_threads
    from plainloop.run.trained.files import find_images, relative_names
    from plainloop.run.trained.predictor import load
    from plainloop.system import storage

    paths = find_images(images)
    predictor = load(run or "", checkpoint or "best", device=device, plugins=plugins_of(plugins))
    torch.set_num_threads(num_threads(predictor.trained.config, predictor.trained.folder))  # as evaluations have them
    out = options.out or predictor.trained.folder / "predictions"
    storage.make_folder(out)
    drawings = Drawings(out, predictor.class_names, relative_names(paths))
    began, rows, coco = time.monotonic(), dict[int, dict[str, Any]](), list[dict[str, Any]]()
    try:
        with drawings.open():
            predict_all(predictor, paths, drawings, rows, coco, options)
    finally:
        write(out, predictor, rows, coco, options.top_k)
        number = len(drawings.samples)
        title = f"{predictor.trained.folder.name}: the first {number} of {len(paths)}"
        if page := drawings.page(title):
            page.save(out / "predictions.png")
    tell(rows, out, time.monotonic() - began, predictor)
    return BadData.code if all("problem" in row for row in rows.values()) else 0


def predict_all(
    predictor: Predictor,
    paths: Sequence[Path],
    drawings: Drawings,
    rows: dict[int, dict[str, Any]],
    coco: list[dict[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Adds a row for each path, by its number; to `coco` one for each object."""
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
            chosen = [paths[number] for number in numbers]
            rows.update(zip(numbers, rows_of(predictor, chosen, batch, results, drawings, coco, options), strict=True))
            show(len(rows), len(paths))


def rows_of(
    predictor: Predictor,
    paths: Sequence[Path],
    batch: Batch,
    results: Batch,
    drawings: Drawings,
    coco: list[dict[str, Any]],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """What is written of each image: its file, those that were made of it, and its first classes, or its objects."""
    from plainloop.run.trained.predictor import LEAST_SCORE, of_size, ranked, shares
    from plainloop.tasks.boxes.found import as_coco

    names, rows = predictor.class_names, []
    best = ranked(results["label"], names, options.top_k) if "label" in results else None
    least = LEAST_SCORE if options.least_score is None else options.least_score
    for row, path in enumerate(paths):
        number, size, image = int(batch["index"][row]), batch["size"][row].tolist(), batch["image"][row]
        result = {name: values[row] for name, values in results.items()}
        found: dict[str, Any] = {"file": str(path)}
        objects = predictor.found(result, image.shape[-2:], size) if "boxes" in result else None
        if objects is not None:
            every = objects if options.least_score is None else objects.chosen(objects.scores >= least)
            coco += as_coco(every, 1 + number, str(path), names)
            objects = objects.chosen(objects.scores >= least)
            found |= {"height": size[0], "width": size[1], "objects": in_words(objects, names)}
        result = {name: result[name] for name in ("label", "mask") if name in result}
        if "mask" in result:
            result["mask"] = of_size(result["mask"], size)
        found |= drawings.add(number, path, image, result, objects)
        if "mask" in result:
            found["shares"] = dict(list(shares(result["mask"].numpy(), names).items())[: options.top_k])
        if best:
            found["probabilities"] = best[row]
        rows.append(found)
    return rows


def in_words(objects: Found, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """`box` is x0 y0 x1 y1 in pixels of the file."""
    rows = zip(objects.names(class_names), objects.scores.tolist(), objects.boxes.tolist(), strict=True)
    return [
        {"name": name, "score": round(score, 6), "box": [round(end, 3) for end in box]} for name, score, box in rows
    ]


def write(
    out: Path, predictor: Predictor, rows: dict[int, dict[str, Any]], coco: list[dict[str, Any]], top_k: int
) -> None:
    """The files with all rows that there are by now."""
    from plainloop.system import storage
    from plainloop.system.tables import to_csv

    found, names = [rows[number] for number in sorted(rows)], predictor.class_names
    about: dict[str, Any] = {
        "run": str(predictor.trained.folder),
        "weights": predictor.trained.weights,
        "classes": list(names),
    }
    if any("objects" in row for row in found):
        # With these names it is for COCO's readers the list of images that predictions_coco.json belongs to.
        about["categories"] = [{"id": 1 + number, "name": name} for number, name in enumerate(names)]
        found = [{"id": 1 + number, "file_name": rows[number]["file"], **rows[number]} for number in sorted(rows)]
        storage.write_whole(out / "predictions_coco.json", f"{json.dumps(coco)}\n".encode())
    storage.write_json(out / "predictions.json", {**about, "images": found})
    storage.write_whole(out / "predictions.csv", to_csv(*table_of(found, names, top_k)))


def table_of(
    found: Sequence[dict[str, Any]], class_names: Sequence[str], top_k: int
) -> tuple[list[str], list[list[object]]]:
    """The columns' names, and the cells of each image."""
    files = [name for name in ("mask", "overlay") if any(name in row for row in found)]
    if any("objects" in row for row in found):
        heads = ["objects", "best_class", "best_score", *(f"count/{name}" for name in class_names)]
    else:
        word = "share" if "mask" in files else "probability"
        top = range(1, 1 + min(top_k, len(class_names)))
        heads = [head for number in top for head in (f"class_{number}", f"{word}_{number}")]
    cells = []
    for row in found:
        own: list[object] = [cell for pair in classes_of(row).items() for cell in pair]
        if "objects" in row:
            names = [one["name"] for one in row["objects"]]
            best = [names[0], row["objects"][0]["score"]] if names else ["", ""]
            own = [len(names), *best, *(names.count(name) for name in class_names)]
        own += [""] * (len(heads) - len(own))
        cells.append([row["file"], *own, *(row.get(name, "") for name in files), row.get("problem", "")])
    return ["file", *heads, *files, "problem"], cells


def classes_of(row: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = row.get("probabilities") or row.get("shares") or {}
    return found


def tell(rows: dict[int, dict[str, Any]], out: Path, seconds: float, predictor: Predictor) -> None:
    from plainloop.tasks.boxes.found import told

    bad = [row for row in rows.values() if "problem" in row]
    say(f"run     {predictor.trained.folder}: {predictor.trained.weights}")
    width = max(len(row["file"]) for row in rows.values())
    for number in sorted(rows)[:SHOWN]:
        row = rows[number]
        best = ", ".join(f"{name} {share:.1%}" for name, share in list(classes_of(row).items())[:3])
        if "objects" in row:
            best = told(*([one[key] for one in row["objects"]] for key in ("name", "score")))
        say(f"{row['file']:<{min(width, 50)}}  {best or row['problem'].removeprefix(row['file']).strip()}")
    if len(rows) > SHOWN:
        say(f"... and {len(rows) - SHOWN:,} more in predictions.csv")
    unread = f", {len(bad):,} could not be read" if bad else ""
    speed = f", {len(rows) / seconds:,.0f} images/s" if len(rows) > SHOWN else ""
    say(f"written {out}: {len(rows):,} image{'s' * (len(rows) > 1)}{unread}{speed}")
