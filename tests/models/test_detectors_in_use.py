"""Detectors in the conditions of real runs: no objects and many, precisions, other classes, backbones, compiling."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import nn

from plainloop.config.starting_weights import weights_line
from plainloop.contracts import Batch
from plainloop.errors import BadData
from plainloop.loop.state import EMA
from plainloop.models import pretrained
from plainloop.models.detection.torchvision_models import ARCHITECTURES, TorchvisionDetector
from plainloop.models.detection.yolov3 import YOLOv3
from plainloop.models.freeze import frozen_names
from plainloop.run_dir.weights import load_weights, save_weights
from plainloop.tasks.detection import Detection
from tests.harness.configs import checked

ALL = ("yolov3", *ARCHITECTURES)
BF16 = torch.bfloat16


def make(name: str, num_classes: int = 3, **settings: Any) -> nn.Module:
    torch.manual_seed(num_classes)
    of_timm = {"num_classes": num_classes, "backbone": "test_resnet"} | settings
    return YOLOv3(**of_timm) if name == "yolov3" else TorchvisionDetector(architecture=name, channels=32, **of_timm)


def tiny(num_classes: int = 3) -> YOLOv3:
    torch.manual_seed(0)
    return YOLOv3(num_classes=num_classes, backbone="tiny", width=4)


def batch_of(num_objects: int, num_classes: int, *, size: int = 64) -> Batch:
    """Two images; with no objects there is room for one that is not valid."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, max(1, num_objects), 2, generator=generator) * size / 2
    sides = 3 + torch.rand(corners.shape, generator=generator) * size / 3
    return {
        "image": torch.randn(2, 3, size, size, generator=generator),
        "boxes": torch.cat([corners, corners + sides], dim=-1),
        "box_label": torch.randint(0, num_classes, corners.shape[:2], generator=generator),
        "box_valid": torch.full(corners.shape[:2], num_objects > 0),
    }


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_objects", [0, 100])
def test_losses_and_gradients_are_numbers_for_no_and_many_objects_in_every_precision(
    num_objects: int, precision: torch.dtype, num_classes: int
) -> None:
    model = tiny(num_classes)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        loss, scalars = Detection(num_classes=num_classes).loss(model, batch_of(num_objects, num_classes))
    loss.backward()
    assert all(scalar.isfinite() for scalar in scalars.values())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ALL)
def test_boxes_keep_their_places_in_bf16(name: str) -> None:
    """As bf16, numbers above 256 are whole pairs of pixels."""
    model, batch = make(name).eval(), batch_of(1, 3, size=96)
    if isinstance(model, TorchvisionDetector):
        roi = getattr(model.detector, "roi_heads", model.detector)
        roi.score_thresh = 0.0
    else:
        model.score_threshold = 0.0
    with torch.no_grad(), torch.autocast("cpu", BF16):
        found = Detection(num_classes=3).predict(model, batch)
    boxes = found["boxes"]
    assert boxes.dtype == torch.float32 and len(boxes[0])
    assert (boxes.to(BF16).float() != boxes).any()


@pytest.mark.parametrize("name", ALL)
def test_weights_of_other_classes_are_taken_but_for_the_layers_of_the_classes(name: str, tmp_path: Path) -> None:
    saved, model = make(name, 5), make(name, 3)
    save_weights(saved, tmp_path / "w.safetensors")
    new = load_weights(model, tmp_path / "w.safetensors")
    assert {key.rpartition(".")[0] for key in new} == set(model.class_layers)
    differ = {key for key, tensor in saved.state_dict().items() if not torch.equal(tensor, model.state_dict()[key])}
    assert differ == set(new)


@pytest.mark.parametrize("name", ALL)
def test_freezing_the_backbone_means_timms_model(name: str) -> None:
    model = make(name)
    place = "backbone." if name == "yolov3" else "detector.backbone.body."
    frozen = frozen_names(model, "backbone")
    assert frozen == [key for key, _ in model.named_parameters() if key.startswith(place)]
    assert len(frozen) == len(list(timm.create_model("test_resnet", features_only=True).parameters()))


@pytest.mark.parametrize("name", ["yolov3", "faster_rcnn"])
def test_a_backbone_takes_the_weights_of_a_model_that_classifies(name: str, tmp_path: Path) -> None:
    classifier, file = timm.create_model("test_resnet", num_classes=7), tmp_path / "best.safetensors"
    save_weights(classifier, file)
    theirs = {key: value for key, value in classifier.state_dict().items() if not key.startswith("fc.")}
    taken, fresh = (make(name, backbone_weights=given).backbone.state_dict() for given in (str(file), None))
    assert taken.keys() == theirs.keys()
    assert all(torch.equal(taken[key], theirs[key]) for key in theirs)
    assert not all(torch.equal(fresh[key], theirs[key]) for key in theirs)


def test_the_plan_says_what_of_a_detector_starts_from_weights_of_a_backbone(tmp_path: Path) -> None:
    file, more = tmp_path / "best.safetensors", f"model.backbone_weights={tmp_path / 'best.safetensors'}"
    save_weights(timm.create_model("test_resnet", num_classes=7), file)
    config = checked("task=detection", "data=digit_boxes", "model=yolov3", "model.backbone=test_resnet", more)
    model = make("yolov3", 5)
    total, inner = (len(part.state_dict()) for part in (model, model.backbone))
    line = weights_line(config, model)
    assert line.startswith(f"the backbone, {file}: {inner} of {total} tensors; anew: neck.blocks.0.0.0.weight, ")


def test_a_detector_without_a_network_is_told_which_key_takes_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "is_reachable", lambda url: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    node = {"_target_": "plainloop.models.detection.yolov3.YOLOv3", "backbone": "darknet53", "pretrained": True}
    with pytest.raises(BadData, match=r"the weights timm/darknet53\.c2ns_in1k are not in") as error:
        pretrained.require_weights(node | {"backbone_weights": None})
    assert error.value.hint.startswith("take them from a file with model.backbone_weights=<file>")


def test_a_file_that_is_no_weights_for_a_backbone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no safetensors file; a run that classifies has best\.safetensors"):
        make("yolov3", backbone_weights=str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.backbone=tiny is none of them"):
        YOLOv3(num_classes=3, backbone="tiny", backbone_weights="w.safetensors")


def test_an_average_of_weights_finds_boxes_and_a_compiled_model_has_the_same_losses() -> None:
    model, batch = tiny(), batch_of(2, 3)
    averaged = EMA(model, 0.9)
    averaged.update(model, 0)
    assert torch.equal(averaged.model.anchors, model.anchors)
    with torch.no_grad():
        assert Detection(num_classes=3).predict(averaged.model.eval(), batch)["box_valid"].any()
    compiled: Any = torch.compile(tiny(), backend="aot_eager", fullgraph=True)
    losses = [Detection(num_classes=3).loss(one, batch)[1] for one in (tiny(), compiled)]
    torch.testing.assert_close(losses[0], losses[1])
