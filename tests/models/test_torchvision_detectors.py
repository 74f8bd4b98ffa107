"""torchvision's detectors learn from a batch's objects, and give detections in the same form."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from plainloop.config.check.meta_model import built_model, model_summary
from plainloop.contracts import Batch
from plainloop.errors import BadConfig
from plainloop.models.detection.torchvision_models import ARCHITECTURES, EXCEPTIONS, TorchvisionDetector
from plainloop.models.detection.yolov3 import YOLOv3
from plainloop.tasks.detection import Detection
from tests.harness.configs import checked

CLASSES = 3
SMALL = {"backbone": "test_resnet", "channels": 32, "anchor_sizes": [8, 16, 32, 64, 128]}
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
    assert loss.isfinite() and scalars.keys() == {"loss", *model.losses}
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "fpn" in name)
    with torch.no_grad():
        found = task.predict(model.eval(), batch)
    assert found["boxes"].shape == (*found["box_valid"].shape, 4) and found["box_valid"].any()
    labels = found["box_label"][found["box_valid"]]
    assert labels.min() >= 0 and labels.max() < CLASSES
    metrics = task.metrics()
    metrics.update(found, batch)
    assert 0 <= metrics.compute()["map"] <= 1


def test_masks_that_mask_rcnn_learns_from_must_be_there() -> None:
    boxes = {name: values for name, values in batch_of().items() if name != "instance_mask"}
    with pytest.raises(BadConfig, match="masks of objects, and the batches have only boxes") as told:
        Detection(num_classes=CLASSES).loss(make("mask_rcnn"), boxes)
    assert told.value.hint.startswith("type task=instance_segmentation")


def test_images_are_seen_in_their_own_size_and_with_their_own_values() -> None:
    """torchvision would enlarge them to 800 pixels, in evaluation even where it is told to skip that."""
    model, batch, seen = make("fcos").eval(), batch_of(), []
    model.detector.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch["image"])
    assert torch.equal(seen[0], batch["image"])


class CountsWaits(TorchDispatchMode):
    """Operations for which a GPU would have to end its work: their size or value is needed on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        reads = func in (aten._local_scalar_dense.default, aten.is_nonzero.default, aten.nonzero.default)
        by_mask = func is aten.index.Tensor and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.count += reads or by_mask
        return func(*args, **(kwargs or {}))


def waits(model: nn.Module) -> int:
    with CountsWaits() as counted:
        loss, _ = Detection(num_classes=CLASSES).loss(model, batch_of())
        loss.backward()
    return counted.count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_waits_for_the_device_at_most_thirty_times_for_each_image(architecture: str) -> None:
    assert 0 < waits(make(architecture)) <= 30 * len(batch_of()["image"])
    assert waits(YOLOv3(num_classes=CLASSES, backbone="tiny", width=4)) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loss_is_that_of_its_parts_but_where_the_plan_says_otherwise(architecture: str) -> None:
    model = make(architecture)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch = {name: torch.cat([tensor, tensor[:1]]) for name, tensor in batch_of().items()}
    assert batch["box_valid"].sum(1).tolist() == [2, 1, 0, 2]  # in the halves not alike
    whole, *halves = (
        loss_of(model, {name: tensor[part] for name, tensor in batch.items()})
        for part in (slice(4), slice(2), slice(2, 4))
    )
    is_mean_over_images = sum(halves) / 2 == pytest.approx(whole, rel=1e-5)
    assert is_mean_over_images == (architecture not in EXCEPTIONS)


def loss_of(model: nn.Module, batch: Batch) -> float:
    torch.manual_seed(0)
    return Detection(num_classes=CLASSES).loss(model, batch)[0].item()


@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn", "yolov3"])
def test_the_check_builds_torchvisions_models_without_trying_them(model: str) -> None:
    task = "instance_segmentation" if model == "mask_rcnn" else "detection"
    config = checked(f"task={task}", "data=digit_boxes", f"model={model}", "model.backbone=test_resnet")
    summary = model_summary(config)
    assert summary.parameters
    assert (summary.macs is None) == (model != "yolov3")
    assert hasattr(built_model(config), "plan_lines") == (model != "yolov3")


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
        ({"channels": 48}, "model.channels=48 must be a multiple of 32 for fcos"),
        ({"backbone": "vit_tiny_patch16_224"}, "has maps at"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TorchvisionDetector(**{"architecture": "fcos", "num_classes": 2} | settings)
