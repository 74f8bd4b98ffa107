"""torchvision's detectors learn from a batch's objects, and give detections in the same form."""

import re
from typing import Any

import pytest
import torch

from plainloop.contracts import Batch
from plainloop.models.detection.torchvision_models import ARCHITECTURES, TorchvisionDetector
from plainloop.tasks.detection import Detection

CLASSES = 3
SMALL = {"backbone": "resnet10t", "anchor_sizes": [8, 16, 32, 64, 128]}
LOWEST_SCORE = {"faster_rcnn": "box_score_thresh", "mask_rcnn": "box_score_thresh"}


def batch_of() -> Batch:
    """Two images with one valid object each, and one without any."""
    boxes = torch.tensor(
        [[[8.0, 8, 40, 40], [0, 0, 0, 0]], [[20, 10, 60, 50], [5, 5, 9, 9]], [[0, 0, 0, 0], [1, 1, 3, 3]]]
    )
    valid = torch.tensor([[True, True], [True, False], [False, False]])  # one that is valid has no area
    masks = torch.zeros(3, 2, 64, 64, dtype=torch.bool)
    masks[0, 0, 8:40, 8:40] = masks[1, 0, 10:50, 20:60] = True
    label = torch.tensor([[2, 0], [0, 1], [0, 0]])
    image = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {
        "image": image,
        "boxes": boxes,
        "box_label": label,
        "box_valid": valid,
        "instance_mask": masks,
        "index": torch.arange(3),
    }


def make(architecture: str) -> TorchvisionDetector:
    torch.manual_seed(0)
    threshold = LOWEST_SCORE.get(architecture, "score_thresh")
    return TorchvisionDetector(architecture=architecture, num_classes=CLASSES, **SMALL, **{threshold: 0.0})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_learns_and_its_detections_are_a_batch(architecture: str) -> None:
    model, batch = make(architecture), batch_of()
    task = Detection(num_classes=CLASSES, measure="masks" if architecture == "mask_rcnn" else "coco")
    loss, scalars = task.loss(model, batch)
    loss.backward()
    assert loss.isfinite() and len(scalars) > 2
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "fpn" in name)
    with torch.no_grad():
        found = task.predict(model.eval(), batch)
    assert found["boxes"].shape == (*found["box_valid"].shape, 4) and found["box_valid"].any()
    labels = found["box_label"][found["box_valid"]]
    assert labels.min() >= 0 and labels.max() < CLASSES
    metrics = task.metrics()
    metrics.update(found, batch)
    assert 0 <= metrics.compute()["map"] <= 1


def test_images_are_seen_in_their_own_size_and_with_their_own_values() -> None:
    """torchvision would enlarge them to 800 pixels, in evaluation even where it is told to skip that."""
    model, batch, seen = make("fcos").eval(), batch_of(), []
    model.detector.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch["image"])
    assert torch.equal(seen[0], batch["image"])


def test_faster_rcnn_on_resnet50_has_the_size_of_torchvisions() -> None:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.device("meta"):
        ours = TorchvisionDetector(architecture="faster_rcnn", num_classes=90)
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(ours) == count(theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "yolo"}, "model.architecture='yolo' must be one of faster_rcnn"),
        ({"anchor_sizes": [8, 16]}, "model.anchor_sizes=[8, 16] must be 5 sizes above 0"),
        ({"backbone": "vit_tiny_patch16_224"}, "has maps at"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TorchvisionDetector(**{"architecture": "fcos", "num_classes": 2} | settings)
