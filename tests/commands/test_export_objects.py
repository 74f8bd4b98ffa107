"""Exported detectors give the objects of the model, in fixed numbers, with what is said about them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from plainloop import load
from plainloop.commands.export import batches, main
from plainloop.data.loading.decode import decode
from plainloop.errors import RunError
from plainloop.models.detection.torchvision_models import ARCHITECTURES
from plainloop.run.trained.difference import differences
from plainloop.run.trained.export import TAKES, Graph, about_export, outputs_of, run_onnx, traced, write_onnx
from plainloop.run.trained.open import Trained
from tests.harness.detectors import sure_detector
from tests.harness.photos import write_wide_and_tall
from tests.harness.runs import train
from tests.harness.trained import train_runs

pytestmark = pytest.mark.own_process
NAMES = ("boxes", "box_label", "box_score", "box_valid")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_runs(tmp_path_factory.mktemp("export"), "detector")


def test_onnxruntime_finds_the_objects_of_the_model_with_the_same_average_precision(
    place: Path, tmp_path: Path, capsys: Any
) -> None:
    typed = [f"run={place / 'detector'}", "format=onnx", "quantize=int8", "--out", str(tmp_path)]
    assert main(typed) == 0
    said = capsys.readouterr().out
    assert "image (any, 3, 96, 96) -> boxes, box_label, box_score, box_valid" in said
    assert re.search(r"equal   up to \S+ in boxes, \S+ in box_score: \d+ objects, 8 val images", said)
    trained = load(place / "detector").trained
    graph = Graph(trained).eval()
    for raw in batches(trained, "val", None):
        images = trained.prepare(raw)["image"]
        expected, found = outputs_of(graph, images), run_onnx(tmp_path / "model.onnx", images, NAMES)
        assert expected["box_valid"].sum() > 2 * len(images)
        worst = {name: one.most for name, one in differences(expected, found).items()}
        assert worst["boxes"] < 1e-3 and worst["box_score"] < 1e-5  # pixels; of other kernels
        assert not worst["box_label"] and not worst["box_valid"]
    best = json.loads((place / "detector/summary.json").read_text())["best"]["value"]
    assert best > 0.01 and f"val/map            {best:.4f} before" in said
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "model.int8.onnx").metadata_props}
    assert about["classes"] == list("01234") and about["output_meaning"].keys() == set(NAMES)


@pytest.mark.slow  # two processes that import torch and torchvision
def test_torch_and_torchvision_give_the_objects_in_a_fresh_process(place: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([f"run={place / 'detector'}", "format=torch_export", "size=64x128", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "objects, 8 val images" in said and "differ" not in said
    extra = {"needs": "", "outputs": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert (json.loads(extra["needs"]), json.loads(extra["outputs"])) == (["torchvision"], list(NAMES))


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that gives wide and tall images different shapes, and of its data."""
    place = tmp_path_factory.mktemp("rectangles")
    words = ("data=coco", f"data.root={write_wide_and_tall(place / 'set')}", "data.image_size=[48,64]")
    words += ("data.num_workers=0", "data.batch_size=4", "task=detection", "model=yolov3", "model.backbone=tiny")
    ended = train(place, *words, "model.width=4", "trainer.duration=1st", "report=never", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    return place


def test_a_run_with_wide_and_tall_images_gives_a_file_for_each(rectangles: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([f"run={rectangles / 'run'}", "format=onnx", "--out", str(tmp_path)]) == 0
    said, found = capsys.readouterr().out, load(rectangles / "run")
    for which, number, (height, width), file, compared_on in (
        ("wide", 0, (48, 64), tmp_path / "model.onnx", "2 wide val images"),
        ("tall", 1, (64, 48), tmp_path / "model_tall.onnx", "1 tall val image"),
    ):
        assert f"{compared_on}\n" in said and f"written {file}: " in said
        assert f"image (any, 3, {height}, {width}) -> {', '.join(NAMES)}\n        for {TAKES[which]}\n" in said
        about = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
        assert (about["image_shape"], about["takes"]) == ([3, height, width], TAKES[which])
        pixels = found.preprocessing.prepare(decode(rectangles / f"set/val/{number}.png"))
        image = found.trained.prepare({"image": pixels[None]})["image"]
        expected, computed = outputs_of(Graph(found.trained).eval(), image), run_onnx(file, image, NAMES)
        worst = differences(expected, computed, threshold=found.trained.model.score_threshold)
        assert worst["boxes"].most < 1e-3 and worst["box_score"].most < 1e-5


def test_a_file_for_tall_images_alone_is_not_compared_on_wide_ones(
    rectangles: Path, tmp_path: Path, capsys: Any
) -> None:
    root = shutil.copytree(rectangles / "set", tmp_path / "set")
    content = json.loads((root / "val.json").read_text())
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [one for one in content[key] if one[name] != 1]
    (root / "val.json").write_text(json.dumps(content))
    typed = [f"run={rectangles / 'run'}", "format=onnx", "size=64x48", f"data.root={root}", "--out", str(tmp_path)]
    assert main(typed) == 0
    said = capsys.readouterr().out
    assert "note    compared on noise, for the validation set has no tall image\n" in said
    assert f"for {TAKES['tall']}\nnote    size=48x64 --out <another folder> makes the file for the others\n" in said
    assert not (tmp_path / "model_tall.onnx").exists()


def test_safetensors_hold_the_detector_exactly(place: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([f"run={place / 'detector'}", "format=safetensors", "--out", str(tmp_path)]) == 0
    assert re.search(r"equal   to the last bit: [1-9]\d+ objects, 8 val images", capsys.readouterr().out)


def compared(trained: Trained, path: Path, scenes: int) -> dict[str, float]:
    """Differences between the model and its ONNX file, on scenes."""
    raw = torch.cat([batch["image"] for batch in batches(trained, "val", None, num_val=scenes)])
    images, graph = trained.prepare({"image": raw})["image"], Graph(trained).eval()
    program, names = traced(graph, trained, images.shape[1:])
    write_onnx(program, path, about_export(trained, images.shape[1:], names, ()), names, trained)
    expected, found = outputs_of(graph, images), run_onnx(path, images, names)
    assert len(images) == scenes and expected["box_valid"].sum() > 10 * scenes
    threshold = trained.model.score_threshold
    return {name: one.most for name, one in differences(expected, found, threshold=threshold).items()}


OTHERS = [name for name in ARCHITECTURES if name != "ssd"]  # each takes 15 to 25 seconds of CPU time


@pytest.mark.parametrize("architecture", ["ssd", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_onnxruntime_finds_the_objects_of_torchvisions_models_as_well(
    place: Path, tmp_path: Path, architecture: str
) -> None:
    model = sure_detector(architecture, num_classes=5)
    trained = replace(load(place / "detector").trained, model=model)
    worst = compared(trained, tmp_path / "model.onnx", 5 if architecture == "ssd" else 32)
    assert worst["boxes"] < 1e-3 and worst["box_score"] < 1e-4
    assert not worst["box_label"] and not worst["box_valid"] and not worst.get("instance_mask")


def detections(order: list[int]) -> dict[str, Any]:
    number = np.arange(4)
    found = {"boxes": number[:, None] + np.float32([0, 0, 5, 5]), "box_label": number % 2}
    found |= {"box_score": np.float32([0.9, 0.5, 0.5, 0.0]), "box_valid": number < 3}
    return {name: values[None, order] for name, values in found.items()}


def test_detections_of_equal_scores_may_change_places_and_nothing_else_may_change() -> None:
    ours = detections([0, 1, 2, 3])
    assert all(one.most == 0 for one in differences(ours, detections([0, 2, 1, 3])).values())
    other = detections([0, 2, 1, 3])
    other["box_label"][0, 0] = 1
    assert differences(ours, other)["box_label"].most == 0.25
    with pytest.raises(RunError, match=r"gives boxes \(1, 3, 4\) where the model gives \(1, 4, 4\)"):
        differences(ours, detections([0, 1, 2]))


def test_a_detection_at_the_threshold_may_be_in_or_out_and_one_above_it_may_not() -> None:
    ours, theirs = detections([0, 1, 2, 3]), detections([0, 1, 2, 3])
    for found in (ours, theirs):
        found["boxes"][0, 3] = 0
    ours["box_score"][0, 2] = 0.0050001
    for values in theirs.values():
        values[0, 2] = 0  # theirs dropped it
    assert all(one.most == 0 for one in differences(ours, theirs, threshold=0.005).values())
    assert differences(ours, theirs)["boxes"].most == 7
    ours["box_score"][0, 2] = 0.006
    assert differences(ours, theirs, threshold=0.005)["boxes"].most == 7
