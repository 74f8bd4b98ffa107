"""Exported detectors give the objects of the model, in fixed numbers, with what is said about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from plainloop import load
from plainloop.commands.export import batches, main
from plainloop.errors import BadConfig, RunError
from plainloop.models.detection.torchvision_models import TorchvisionDetector
from plainloop.run.trained.export import Graph, differences, outputs_of, run_onnx, traced
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
    assert "box_valid 0.00% of the values differ (batches of 1 and 3)" in said
    extra = {"needs": "", "outputs": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert (json.loads(extra["needs"]), json.loads(extra["outputs"])) == (["torchvision"], list(NAMES))


def test_safetensors_hold_the_detector_exactly(place: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([f"run={place / 'detector'}", "format=safetensors", "--out", str(tmp_path)]) == 0
    assert "boxes     0 is the largest difference" in capsys.readouterr().out


def test_detectors_that_no_graph_can_hold_say_what_can_be_done_with_them(place: Path) -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(architecture="fcos", num_classes=5, backbone="resnet10t").eval()
    trained = replace(load(place / "detector").trained, model=model)
    with pytest.raises(
        BadConfig, match=r"cannot be exported by torch.export: torchvision's .* plainloop.load"
    ) as error:
        traced(Graph(trained).eval(), trained, (3, 64, 64))
    assert error.value.hint == "format=safetensors writes the weights of every model"


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
