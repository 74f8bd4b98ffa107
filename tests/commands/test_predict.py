"""Predictions in files: a row for each image, also for those that cannot be read; masks that can be read as masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from plainloop import load
from plainloop.commands.predict import main
from plainloop.data.masks.read import read_mask, reading_of
from tests.harness.photos import photograph
from tests.harness.trained import train_runs

LEAST = "0.002"  # of objects; a few steps teach no more


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `photos`, `masks` and `boxes`, and a folder `odd` with images of all kinds and three that are none."""
    place = train_runs(tmp_path_factory.mktemp("predict"), "photos", "masks", "boxes")
    odd, picture = place / "odd", photograph((60, 40))
    (odd / "in").mkdir(parents=True)
    for name, mode in {"grey.png": "L", "alpha.png": "RGBA", "in/cmyk.jpg": "CMYK", "palette.png": "P"}.items():
        picture.convert(mode).save(odd / name)
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(odd / "sixteen_bits.png")
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by a quarter
    picture.save(odd / "turned.jpg", exif=exif)
    (odd / "broken.jpg").write_bytes(b"no")
    (odd / "empty.png").touch()
    Image.new("RGB", (500, 2)).save(odd / "thin.png")
    return place


BAD = {"broken.jpg": "no image of a known kind", "empty.png": "no image of a known kind", "thin.png": "500 x 2 pixels"}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_has_a_row_in_order_with_what_a_loaded_model_says(
    place: Path, tmp_path: Path, workers: int, capsys: Any
) -> None:
    arguments = ["--out", str(tmp_path), "--workers", str(workers), "--batch-size", "4", "--top-k", "1"]
    assert main([f"run={place / 'photos'}", f"images={place / 'odd'}", *arguments]) == 0
    found, written = json.loads((tmp_path / "predictions.json").read_text()), rows(tmp_path)
    files = sorted(path for path in (place / "odd").rglob("*") if path.is_file())
    assert [row["file"] for row in found["images"]] == [row["file"] for row in written] == list(map(str, files))
    bad = {Path(row["file"]).name: row["problem"] for row in written if row["problem"]}
    assert bad.keys() == BAD.keys() and all(why in bad[name] for name, why in BAD.items())
    model = load(place / "photos")
    assert (found["classes"], found["run"]) == (["class_0", "class_1"], str(place / "photos"))
    for row, cells in zip(found["images"], written, strict=True):
        if "problem" not in row:
            said = model(row["file"]).probabilities
            assert list(row["probabilities"]) == [cells["class_1"]] == list(said)[:1]
            assert float(cells["probability_1"]) == row["probabilities"][cells["class_1"]]
            assert row["probabilities"][cells["class_1"]] == pytest.approx(
                max(said.values()), rel=1e-5
            )  # other batches
    assert "3 could not be read" in capsys.readouterr().out
    assert Image.open(tmp_path / "predictions.png").width > 100


def test_masks_are_read_as_masks_and_have_the_sizes_of_their_images(place: Path, tmp_path: Path) -> None:
    assert main([f"run={place / 'masks'}", f"images={place / 'odd'}", "--out", str(tmp_path)]) == 0
    model, written = load(place / "masks"), rows(tmp_path)
    number = len(model.class_names)
    none: dict[str, Any] = dict.fromkeys(("ignore_index", "mask_values", "palette", "ignored_colour"))
    reading = reading_of(number, first_class=0, **none)
    bad = [Path(row["file"]).name for row in written if row["problem"]]
    assert sorted(bad) == sorted(BAD)
    for row in written:
        if not row["problem"]:
            said = model(row["file"])
            assert said.mask is not None
            assert read_mask(tmp_path / row["mask"], reading).tolist() == said.mask.tolist()
            assert Image.open(tmp_path / row["overlay"]).size == said.mask.shape[::-1]
            assert (row["class_1"], float(row["share_1"])) == next(iter(said.shares.items()))
    assert (tmp_path / "masks/in/cmyk.png").exists()
    assert Image.open(tmp_path / "masks/turned.png").size == (40, 60)


def test_objects_are_those_of_a_loaded_model_in_pixels_of_the_files_in_every_form(place: Path, tmp_path: Path) -> None:
    typed = [f"run={place / 'boxes'}", f"images={place / 'odd'}", "--out", str(tmp_path), "--least-score", LEAST]
    assert main(typed) == 0
    model, written = load(place / "boxes"), rows(tmp_path)
    coco = COCO(tmp_path / "predictions.json").loadRes(str(tmp_path / "predictions_coco.json"))
    images = json.loads((tmp_path / "predictions.json").read_text())["images"]
    assert sorted(Path(row["file"]).name for row in images if "problem" in row) == sorted(BAD)
    assert not coco.getAnnIds([row["id"] for row in images if "problem" in row])
    for row, cells in zip(images, written, strict=True):
        if "problem" in row:
            continue
        said = model(row["file"], least_score=float(LEAST))
        assert len(said.names) > 1 and [one["name"] for one in row["objects"]] == list(said.names)
        assert np.abs([one["box"] for one in row["objects"]] - said.boxes).max() < 1e-3  # digits that are written
        own = coco.loadAnns(coco.getAnnIds(row["id"]))
        assert [one["category"] for one in own] == list(said.names)
        sides = np.concatenate([said.boxes[:, :2], said.boxes[:, 2:] - said.boxes[:, :2]], axis=1)
        assert np.abs([one["bbox"] for one in own] - sides).max() < 1e-3
        assert (cells["objects"], cells["best_class"]) == (str(len(said.names)), said.names[0])
        assert [int(cells[f"count/{name}"]) for name in model.class_names] == list(map(said.names.count, "01234"))
        assert Image.open(tmp_path / row["overlay"]).size == (row["width"], row["height"])
    turned = next(row for row in images if row["file"].endswith("turned.jpg"))
    assert (turned["width"], turned["height"]) == (40, 60)


def test_scores_that_are_too_low_for_people_are_in_cocos_form_alone(place: Path, tmp_path: Path, capsys: Any) -> None:
    image = place / "odd" / "grey.png"
    assert main([f"run={place / 'boxes'}", f"images={image}", "--out", str(tmp_path)]) == 0
    every = load(place / "boxes")(image, least_score=0)
    assert len(json.loads((tmp_path / "predictions_coco.json").read_text())) == len(every.names) > 0
    assert max(every.scores) < 0.3 and rows(tmp_path)[0]["objects"] == "0"
    assert "grey.png  no objects" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "overlays/grey.jpg")).std(2).max() < 3  # nothing in colour is drawn


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no run": (("images={odd}",), 64, "run= is missing"),
    "no images": (("run={photos}",), 64, "images= is missing"),
    "a wrong path": (("run={photos}x", "images={odd}"), 64, "the newest run in"),
    "a folder of runs": (
        ("run={photos}/..", "images={odd}"),
        64,
        "holds 3 runs and is none itself: boxes, masks, photos",
    ),
    "a misspelt word": (("run={photos}", "images={odd}", "checkpont=last"), 64, "checkpont=last is not known here"),
    "no such step": (("run={photos}", "images={odd}", "checkpoint=99"), 64, "type checkpoint=1, checkpoint="),
    "no such option": (("run={photos}", "images={odd}", "--topk", "2"), 64, "--topk is not known here"),
    "a count": (("run={photos}", "images={odd}", "--top-k", "0"), 64, "--top-k 0 must be 1 or more"),
    "a score": (("run={photos}", "images={odd}", "--least-score", "30"), 64, "--least-score 30.0 must lie between 0"),
    "a pattern for nothing": (("run={photos}", "images={odd}/*.bmp"), 65, "matches no file"),
    "none can be read": (("run={photos}", "images={odd}/broken.jpg", "{odd}/empty.png"), 65, "2 could not be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_what_to_type(place: Path, tmp_path: Path, case: str, capsys: Any) -> None:
    words, code, message = WRONG[case]
    typed = [word.format(odd=place / "odd", photos=place / "photos") for word in words]
    assert main([*typed, "--out", str(tmp_path)]) == code
    said = capsys.readouterr()
    assert message in said.out + said.err
