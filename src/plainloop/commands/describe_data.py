"""Reads every image of a data set as training would, and tells what is in it and what is wrong with it.

Counts per class, sizes, mean and std, files that cannot be read, odd ones, and the same image twice, also in training
and validation. Writes an HTML page, and beside it a CSV of all images with a hash of each, for --against.
The exit code is 65 where images cannot be read or have changed, else 0.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plainloop.commands.composed import answer, arguments_for, compose, parser_of
from plainloop.config.check.check import check_data
from plainloop.errors import BadData
from plainloop.loggers.screen import counting
from plainloop.system.tables import as_cell, to_csv

EXAMPLES = (
    "data=image_folder data.root=/data/pets",
    "data=torchvision data.name=Flowers102 data.download=true --out flowers.html",
    "data=image_folder data.root=/data/pets --against outputs/describe_data.csv",
)
COLUMNS = ("split", "file", "class", "width", "height", "hash", "problem", "notes")


def main(arguments: Sequence[str]) -> int:
    """`python scripts/describe_data.py`; the exit code."""
    parser = parser_of("describe_data", __doc__ or "", EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("outputs/describe_data.html"), help="the page (%(default)s)")
    parser.add_argument("--against", type=Path, help="the CSV of an earlier survey: names what has changed since")
    options, overrides = parser.parse_known_args(arguments)
    return answer(lambda: describe(overrides, options))


def describe(overrides: Sequence[str], options: argparse.Namespace) -> int:
    from plainloop.config.build import arguments_of, build
    from plainloop.config.durations import Clock
    from plainloop.data.survey.survey import survey
    from plainloop.report.data_page import as_html
    from plainloop.report.data_set import Found, as_text
    from plainloop.system.storage import make_folder, write_whole

    before = earlier(options.against) if options.against else None
    config = check_data(*compose(overrides))
    whole = {"train_eval_samples": 10**12, "max_train_samples": None, "on_bad_image": "raise", "cache": "none"}
    given = {key: value for key, value in whole.items() if key in config["data"]}
    node = arguments_for(config, batch_size=1, device="cpu", **given)["data"]
    try:
        data = build(node, Clock(1, 1), plugins=config["plugins"])
        facts = data.known() if hasattr(data, "known") else type(data).facts(**arguments_of(node))
        with counting("reading") as tell:
            looked = list(survey(data, tell=lambda split, done, total: tell(done, total, split)))
    except ValueError as error:
        raise BadData(str(error)) from error
    root = node.get("root") or node.get("name") or ""
    title = f"{node['_target_'].rpartition('.')[2]} {root}".strip()
    changed = differences(before, looked) if before is not None else ()
    boxed = any(one.objects is not None for one in looked)  # then not all of what is in the files is used
    said = type(data).plan_lines(**arguments_of(node)) if boxed else []
    found = Found(title, facts.class_names, looked, node.get("image_size"), changed, said)
    make_folder(options.out.parent)
    write_whole(options.out, as_html(found).encode(errors="backslashreplace"))
    table = options.out.with_suffix(".csv")
    write_table(table, found)
    sys.stdout.writelines(f"{line}\n" for line in as_text(found))
    sys.stdout.write(f"{options.out} shows all of it; {table} has a line for each image\n")
    return BadData.code if found.bad or changed else 0


def write_table(path: Path, found: Any) -> None:
    from plainloop.system.storage import write_whole

    rows = []
    for one in found.looked:
        label = found.class_names[one.label] if 0 <= one.label < len(found.class_names) else one.label
        rows.append((one.split, one.name, label, one.width, one.height, one.digest, one.problem, "; ".join(one.notes)))
    write_whole(path, to_csv(COLUMNS, rows))


def earlier(path: Path) -> dict[tuple[str, str], str]:
    """The hash of each image of an earlier survey, by split and name. Raises BadData."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {(row["split"], row["file"]): row["hash"] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(
            f"--against {path} is not the CSV of a survey ({type(error).__name__}: {error})",
            hint="make one with the same command without --against",
        ) from error


def differences(before: dict[tuple[str, str], str], looked: Sequence[Any]) -> list[str]:
    now = {(one.split, str(as_cell(one.name))): one.digest for one in looked}
    changed = [
        f"changed: {split}/{name}" for split, name in now.keys() & before if now[split, name] != before[split, name]
    ]
    gone = [f"gone: {split}/{name}" for split, name in before.keys() - now.keys()]
    new = [f"new: {split}/{name}" for split, name in now.keys() - before.keys()]
    return [*sorted(changed), *sorted(gone), *sorted(new)]
