"""Exported models compute what the model computes, in their own programs; what cannot be exported is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import Tensor, nn

from plainloop import load
from plainloop.commands.export import compare, main
from plainloop.errors import BadConfig, RunError
from plainloop.run.trained.export import Graph, examples, outputs_of, run_onnx, traced
from tests.harness.trained import train_runs

pytestmark = pytest.mark.own_process


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_runs(tmp_path_factory.mktemp("export"), "digits", "masks", "timms")


def test_onnxruntime_computes_the_probabilities_of_the_model_for_every_batch_size(
    place: Path, tmp_path: Path, capsys: Any
) -> None:
    typed = [f"run={place / 'digits'}", "format=onnx", "quantize=int8", "--out", str(tmp_path)]
    assert main(typed) == 0
    said = capsys.readouterr().out
    assert "image (any, 1, 8, 8) -> logits, label" in said
    model = load(place / "digits")
    images = examples(model.trained, (1, 8, 8), 5)
    names = ("logits", "label")
    found = run_onnx(tmp_path / "model.onnx", images, names)
    expected = outputs_of(Graph(model.trained).eval(), images)
    assert all(np.allclose(found[name], expected[name], atol=1e-5) for name in names)
    small = run_onnx(tmp_path / "model.int8.onnx", images, names)
    assert 1e-6 < np.abs(small["logits"] - expected["logits"]).max() < 0.2  # 8 bits are fewer, and still that model
    for file in ("model.onnx", "model.int8.onnx"):
        about = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / file).metadata_props}
        assert about["classes"] == list("0123456789") and about["outputs"] == list(names)
        assert about["normalize"] == {"mean": [0.3053], "std": [0.3759]} and about["image_shape"] == [1, 8, 8]
    top1 = json.loads((place / "digits/summary.json").read_text())["best"]["value"]
    assert f"val/top1           {top1:.4f} before" in said


def test_torch_alone_computes_the_mask_of_the_model_in_another_size(place: Path, tmp_path: Path, capsys: Any) -> None:
    typed = [f"run={place / 'masks'}", "format=torch_export", "size=48x64", "--out", str(tmp_path)]
    assert main(typed) == 0
    said = capsys.readouterr().out
    assert "8 val images\n" in said and "\n        image (any, 3, 48, 64) -> logits, mask\n" in said
    extra = {"classes": "", "task": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["classes"]) == ["background", *"01234"]
    assert json.loads(extra["task"]) == "plainloop.tasks.segmentation.Segmentation"


def test_safetensors_hold_the_model_exactly_and_timm_takes_them(place: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("masks", "timms"):
        assert (
            main([f"run={place / name}", "format=safetensors", "checkpoint=last", "--out", str(tmp_path / name)]) == 0
        )
    assert not (tmp_path / "masks" / "config.json").exists()
    assert f'timm.create_model("local-dir:{tmp_path / "timms"}", pretrained=True)' in capsys.readouterr().out
    model = load(place / "timms", "last").trained
    images = examples(model, (1, 8, 8), 3)
    again = timm.create_model(f"local-dir:{tmp_path / 'timms'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(images), model.model(images))


class Branching(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3)).expand(-1, 10) * (2 if image.mean() > 0 else 3)


def test_a_model_that_no_graph_can_hold_is_told(place: Path) -> None:
    trained = replace(load(place / "digits").trained, model=Branching())
    with pytest.raises(BadConfig, match=r"the model Branching cannot be exported by torch.export: "):
        traced(Graph(trained).eval(), trained, (1, 8, 8))


def test_a_file_that_computes_something_else_is_refused(place: Path, capsys: Any) -> None:
    trained = load(place / "digits").trained
    graph = Graph(trained).eval()

    def off_by(error: float) -> None:
        def run(images: Tensor) -> Any:
            return {name: values + np.float32(error) for name, values in outputs_of(graph, images).items()}

        compare(trained, graph, examples(trained, (1, 8, 8), 8), 1e-3, run, Path("m.onnx"), "8 images of noise")

    off_by(1e-4)
    assert capsys.readouterr().out == "equal   up to 0.0001 in logits, 0.0001 in label: 8 images of noise\n"
    with pytest.raises(RunError, match=r"m.onnx: 0.1 in logits differ from the model's on 8 images") as error:
        off_by(0.1)
    assert "do not use this file" in error.value.hint


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no run": (("format=onnx",), "run= is missing"),
    "no format": (("run={run}",), "format= is missing\nnext: add format=onnx"),
    "another format": (("run={run}", "format=tflite"), "format=tflite must be onnx, torch_export, safetensors"),
    "int8 of another format": (
        ("run={run}", "format=safetensors", "quantize=int8"),
        "quantize=int8 with format=safetensors is not possible\nnext: type quantize=int8 format=onnx",
    ),
    "a wrong path": (("run={run}x", "format=onnx"), "the newest run in"),
    "a size": (("run={run}", "format=onnx", "size=big"), "type size=224 or size=512x1024"),
    "a misspelt word": (("run={run}", "format=onnx", "quantise=int8"), "quantise=int8 is not known here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_what_to_type(place: Path, tmp_path: Path, case: str, capsys: Any) -> None:
    words, message = WRONG[case]
    assert main([*(word.format(run=place / "digits") for word in words), "--out", str(tmp_path)]) == 64
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
