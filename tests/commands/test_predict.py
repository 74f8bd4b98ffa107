"""Predictions in files: a row for each image, also for those that cannot be read; masks that can be read as masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainloop import load
from plainloop.commands.predict import main
from plainloop.data.masks.read import read_mask, reading_of
from tests.harness.photos import photograph, write_photographs
from tests.harness.runs import train

QUICK = ("device=cpu", "trainer.duration=2st", "data.batch_size=8", "optimizer=sgd", "model.width=4")
MASKS = ("data=digit_scenes", "data.num_train=8", "data.num_val=8", "model=tiny_seg", "task=segmentation")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `labels` and `masks`, and a folder `odd` with images of all kinds and three that are none."""
    place = tmp_path_factory.mktemp("predict")
    root = write_photographs(place / "set", per_class=8)
    labels = ("data=image_folder", f"data.root={root}", "data.image_size=32", "data.num_workers=0")
    for name, words in {"labels": labels, "masks": MASKS}.items():
        assert train(place, *QUICK, *words, f"hydra.run.dir={name}").code == 0
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
    assert main([f"run={place / 'labels'}", f"images={place / 'odd'}", *arguments]) == 0
    found, written = json.loads((tmp_path / "predictions.json").read_text()), rows(tmp_path)
    files = sorted(path for path in (place / "odd").rglob("*") if path.is_file())
    assert [row["file"] for row in found["images"]] == [row["file"] for row in written] == list(map(str, files))
    bad = {Path(row["file"]).name: row["problem"] for row in written if row["problem"]}
    assert bad.keys() == BAD.keys() and all(why in bad[name] for name, why in BAD.items())
    model = load(place / "labels")
    assert (found["classes"], found["run"]) == (["class_0", "class_1"], str(place / "labels"))
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


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no run": (("images={odd}",), 64, "run= is missing"),
    "no images": (("run={labels}",), 64, "images= is missing"),
    "a wrong path": (("run={labels}x", "images={odd}"), 64, "the newest run in"),
    "a folder of runs": (("run={labels}/..", "images={odd}"), 64, "holds 2 runs and is none itself: labels, masks"),
    "a misspelt word": (("run={labels}", "images={odd}", "checkpont=last"), 64, "checkpont=last is not known here"),
    "no such step": (("run={labels}", "images={odd}", "checkpoint=99"), 64, "type checkpoint=1, checkpoint=2"),
    "no such option": (("run={labels}", "images={odd}", "--topk", "2"), 64, "--topk is not known here"),
    "a count": (("run={labels}", "images={odd}", "--top-k", "0"), 64, "--top-k 0 must be 1 or more"),
    "a pattern for nothing": (("run={labels}", "images={odd}/*.bmp"), 65, "matches no file"),
    "none can be read": (("run={labels}", "images={odd}/broken.jpg", "{odd}/empty.png"), 65, "2 could not be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_what_to_type(place: Path, tmp_path: Path, case: str, capsys: Any) -> None:
    words, code, message = WRONG[case]
    typed = [word.format(odd=place / "odd", labels=place / "labels") for word in words]
    assert main([*typed, "--out", str(tmp_path)]) == code
    said = capsys.readouterr()
    assert message in said.out + said.err
