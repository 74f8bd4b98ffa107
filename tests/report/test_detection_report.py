"""The report of a detection run: its numbers are those of the run's own detections, counted plainly."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plainloop.commands.evaluate import data_of
from plainloop.commands.evaluate import main as evaluate
from plainloop.report.advice.advice import advice
from plainloop.report.run.objects import FOUND, INVENTED, MISSED, has_objects, pair
from plainloop.report.run.page import page
from plainloop.report.run.read import read_run
from plainloop.report.run.results import drawings_of
from plainloop.run.trained.open import open_run
from plainloop.run_dir.evaluation import Evaluation, read_evaluation
from plainloop.tasks.details import Curves, Details
from tests.harness import runs
from tests.tasks.test_object_matches import iou_of

# It learns the digit 0 a little: some of what it detects is right.
TINY = (
    *("task=detection", "data=digit_boxes", "model=yolov3", "model.backbone=tiny", "model.width=8", "augment=none"),
    *("model.anchors=[[14,18],[18,24],[24,24],[22,30],[26,34],[32,32],[30,40],[36,44],[44,48]]", "data.num_digits=2"),
    *("data.num_train=160", "data.num_val=30", "data.image_size=64", "data.batch_size=16", "trainer.duration=5ep"),
    *("trainer.eval_every=5ep", "optimizer=muon", "optimizer.lr=0.02", "threads=1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    place = Path(tmp_path_factory.mktemp("run"))
    ended = runs.train(place, *TINY, f"hydra.run.dir={place / 'run'}")
    assert ended.code == 0, ended.err
    return place / "run"


def detected(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each validation image's detections and objects, as lists."""
    trained = open_run(folder)
    data, _ = data_of(trained, "val")
    found = []
    for batch in data.eval_batches("val"):
        said = trained.predict(batch)
        for row in range(len(batch["index"])):
            sides = (
                {k: v[row][one["box_valid"][row]].tolist() for k, v in one.items() if k.startswith("box")}
                for one in (said, batch)
            )
            found.append(tuple(sides))
    return found


def test_the_rows_and_tables_are_what_counting_one_by_one_gives(folder: Path) -> None:
    kept = read_evaluation(folder)
    assert kept is not None and kept.details.least_score is not None
    expected, by_class = [], {label: [0, 0, 0] for label in (0, 1)}
    for said, real in detected(folder):
        taken: set[int] = set()
        invented = 0
        for d in sorted(range(len(said["boxes"])), key=lambda d: -said["box_score"][d]):
            if said["box_score"][d] < kept.details.least_score:
                continue
            own = [i for i in range(len(real["boxes"])) if real["box_label"][i] == said["box_label"][d]]
            best = max(own, key=lambda i: iou_of(said["boxes"][d], real["boxes"][i])[0], default=-1)
            if own and best not in taken and iou_of(said["boxes"][d], real["boxes"][best])[0] >= 0.5:
                taken.add(best)
            else:
                invented += 1
                by_class[said["box_label"][d]][2] += 1
        for i, label in enumerate(real["box_label"]):
            by_class[label][0 if i in taken else 1] += 1
        expected.append([len(real["boxes"]), len(taken), len(real["boxes"]) - len(taken), invented])
    assert kept.columns == ("index", "objects", "found", "missed", "invented", "overlap")
    assert kept.samples[:, 1:5].tolist() == expected
    classes = {row[0]: list(row[-3:]) for row in kept.details.tables[0].rows}
    assert classes == {str(label): counts for label, counts in by_class.items()}
    assert sum(row[1] for row in expected) > 0  # it has learned something


def test_the_page_has_the_counts_the_curves_and_the_worst_images(folder: Path) -> None:
    text = html.unescape((folder / "report.html").read_text())
    kept = read_evaluation(folder)
    assert kept is not None and has_objects(kept)
    for table in kept.details.tables:
        assert table.title in text
    assert "Precision over recall, at an overlap of 0.5" in text
    assert kept.details.about in text
    first = kept.samples[kept.samples[:, 0] == int(kept.worst["index"][0])][0].astype(int)
    assert f"{first[3]} of {first[1]} missed, {first[4]} invented" in text
    assert text.count("<img") == 24


def test_a_class_keeps_its_colour_where_another_has_no_curve() -> None:
    lines: dict[str, Any] = {name: [(0.0, 1.0), (1.0, height)] for height, name in enumerate(("mean", "cat", "dog"))}
    without = {name: line for name, line in lines.items() if name != "cat"}
    charts = [Curves(f"at {i}", "recall", "precision", one) for i, one in enumerate((lines, without))]
    found = Evaluation("val", 1, {}, (), np.zeros((0, 0)), None, {}, Details(curves=charts))
    keys = [dict(re.findall(r"background:(.*?)\"></i>(\w+)", key)) for _, _, key in drawings_of(found)]
    assert [list(key.values()) for key in keys] == [["mean", "cat", "dog"], ["mean", "dog"]]
    assert keys[1].items() <= keys[0].items()


def test_what_is_missed_and_invented_has_colours_of_its_own(folder: Path) -> None:
    kept = read_evaluation(folder)
    assert kept is not None
    missed, invented = (int(kept.column(name)[kept.worst["index"]].argmax()) for name in ("missed", "invented"))
    for row, side, colour in ((missed, 0, MISSED), (invented, 1, INVENTED)):
        height, width = kept.worst["size"][row].tolist()
        sample = {"image": torch.zeros(3, height, width)}
        pictures, _ = pair(kept, row, sample, ["0", "1"], side=288)
        objects, detections = ({one for _, one in picture.getcolors(100_000)} for picture in pictures)
        assert colour in (objects, detections)[side]
        assert (FOUND in objects) is bool(kept.column("found")[kept.worst["index"][row]])


def test_an_evaluation_says_what_the_run_measured_with_intervals_and_a_row_for_each_image(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    assert evaluate([f"run={folder}", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "the run itself measured the same, to the last digit" in told
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = runs.lines(folder / "metrics.jsonl")
    kept = read_evaluation(folder)
    assert kept is not None
    of_run = next(row for row in rows if row["step"] == kept.step and "val/map" in row)
    assert {name: found["metrics"][name] for name in ("map", "map50", "mar")} == {
        name: of_run[f"val/{name}"] for name in ("map", "map50", "mar")
    }
    low, high = found["intervals"]["map"]
    assert 0 <= low < found["metrics"]["map"] < high <= 1
    with (tmp_path / "out" / "samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    assert [int(row["invented"]) for row in samples] == kept.column("invented").astype(int).tolist()
    assert [row["index"] for row in samples] == [str(i) for i in range(30)]


def test_all_images_of_both_splits_are_measured(folder: Path, tmp_path: Path) -> None:
    assert evaluate([f"run={folder}", "split=all", "--out", str(tmp_path / "all")]) == 0
    with (tmp_path / "all" / "samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    assert len(samples) == 190
    objects = [sum(int(row["objects"]) for row in samples if row["split"] == split) for split in ("val", "train")]
    kept = read_evaluation(folder)
    assert kept is not None and objects[0] == kept.column("objects").sum() and objects[1] > 160


def test_advice_says_nothing_that_needs_labels(folder: Path) -> None:
    lines = [one.line for one in advice(folder)]
    assert not [line for line in lines if re.search("label_smoothing|cutmix|crop_flip|standard", line)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("boxes", lambda boxes: boxes * math.nan),
        ("box_label", lambda label: label * 0 + 99),
        ("predicted_boxes", lambda boxes: boxes[..., 0]),
        ("predicted_box_score", lambda score: score[:, :0]),
    ],
    ids=["no numbers", "no class", "no boxes", "too few scores"],
)
def test_pictures_of_somebody_elses_run_do_not_end_the_report(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run" / "evaluation" / "worst.safetensors"
    worst = load_file(file)
    save_file(worst | {name: change(worst[name]).contiguous()}, file)
    assert page(read_run(tmp_path / "run")).count("<img") in (12, 24)
