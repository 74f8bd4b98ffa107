"""YOLOv3 has Darknet's size, its targets and losses are those of a slow reference, and its boxes undo them."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.contracts import Batch
from plainloop.models.detection import yolo_head
from plainloop.models.detection.yolov3 import ANCHORS, STRIDES, YOLOv3
from tests.harness.tensors import NoHostReads

CLASSES = 5
SIZE = (96, 128)  # height, width
DARKNETS_VALUES = (
    62_001_757  # in yolov3.weights, which has 248,007,048 bytes: five numbers of 4 bytes, then the weights
)


def objects_of(num_images: int = 3, num_objects: int = 6, *, seed: int = 0) -> Batch:
    """Some objects are not valid; the last image has none; the first two of the first image share a place."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([SIZE[1], SIZE[0]])
    corners = torch.rand(num_images, num_objects, 2, generator=generator) * sides * 0.7
    wide = 3 + torch.rand(num_images, num_objects, 2, generator=generator) * sides * 0.6
    boxes = torch.cat([corners, torch.minimum(corners + wide, sides)], dim=-1)
    boxes[0, 1] = boxes[0, 0]
    valid = torch.rand(num_images, num_objects, generator=generator) < 0.8
    valid[0, :2], valid[-1] = True, False
    label = torch.randint(0, CLASSES, (num_images, num_objects), generator=generator)
    return {"boxes": boxes, "box_label": label, "box_valid": valid}


def maps_of(num_images: int = 3, *, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(num_images, 3, SIZE[0] // stride, SIZE[1] // stride, 5 + CLASSES) for stride in STRIDES]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def anchors_of() -> Tensor:
    return torch.tensor(ANCHORS, dtype=torch.float32).view(3, 3, 2)


def ours(maps: list[Tensor], objects: Batch, *, ignore_iou: float = 0.3) -> dict[str, float]:
    parts = yolo_head.losses(maps, objects, anchors=anchors_of(), strides=STRIDES, ignore_iou=ignore_iou)
    return {name: float(part) for name, part in parts.items()}


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def bce(logit: float, target: float) -> float:
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0.0) - logit * target


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def slow_reference(maps: list[Tensor], objects: Batch, ignore_iou: float) -> dict[str, float]:
    """One object, one cell, one number at a time."""
    total = dict.fromkeys(("centre", "size", "objectness", "class"), 0.0)
    for image in range(len(maps[0])):
        real = [
            (box, label)
            for box, label, valid in zip(*(objects[key][image].tolist() for key in ("boxes", "box_label", "box_valid")))
            if valid
        ]
        taken = set()
        for (x0, y0, x1, y1), label in real:
            width, height = x1 - x0, y1 - y0
            shapes = [overlap([0, 0, width, height], [0, 0, *anchor]) for anchor in ANCHORS]
            best = shapes.index(max(shapes))
            level, anchor = divmod(best, 3)
            stride = STRIDES[level]
            x, y = (x0 + x1) / 2 / stride, (y0 + y1) / 2 / stride
            column, row = int(x), int(y)
            taken.add((level, anchor, row, column))
            numbers = maps[level][image, anchor, row, column].tolist()
            weight = 2 - width * height / (SIZE[0] * SIZE[1])
            total["centre"] += weight * (bce(numbers[0], x - column) + bce(numbers[1], y - row))
            larger = math.log(width / ANCHORS[best][0]), math.log(height / ANCHORS[best][1])
            total["size"] += weight * ((numbers[2] - larger[0]) ** 2 + (numbers[3] - larger[1]) ** 2) / 2
            total["class"] += sum(bce(number, i == label) for i, number in enumerate(numbers[5:]))
        for level, cells in enumerate(maps):
            for anchor in range(3):
                for row in range(cells.shape[2]):
                    for column in range(cells.shape[3]):
                        tx, ty, tw, th, logit = cells[image, anchor, row, column, :5].tolist()
                        if (level, anchor, row, column) in taken:
                            total["objectness"] += bce(logit, 1.0)
                            continue
                        x, y = (column + sigmoid(tx)) * STRIDES[level], (row + sigmoid(ty)) * STRIDES[level]
                        wide, high = (ANCHORS[3 * level + anchor][i] * math.exp(t) / 2 for i, t in enumerate((tw, th)))
                        box = [x - wide, y - high, x + wide, y + high]
                        if all(overlap(box, other) <= ignore_iou for other, _ in real):
                            total["objectness"] += bce(logit, 0.0)
    return {name: value / len(maps[0]) for name, value in total.items()}


def test_it_has_as_many_values_as_darknets_own_weights() -> None:
    with torch.device("meta"):
        model = YOLOv3(num_classes=80)
    kept = [tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert sum(tensor.numel() for tensor in kept) == DARKNETS_VALUES


@pytest.mark.parametrize("ignore_iou", [0.1, 0.3, 1.0])
def test_losses_are_those_of_the_slow_reference(ignore_iou: float) -> None:
    maps, objects = maps_of(), objects_of()
    expected = slow_reference(maps, objects, ignore_iou)
    assert ours(maps, objects, ignore_iou=ignore_iou) == pytest.approx(expected, rel=1e-5)  # float32 against float64
    assert ours(maps, objects, ignore_iou=0.2) != pytest.approx(expected, rel=1e-5)  # it matters which cells count


def test_padding_changes_no_loss() -> None:
    maps, objects = maps_of(), objects_of()
    more = {name: F.pad(t, (0, 0) * (t.ndim - 2) + (0, 3)) for name, t in objects.items()}
    assert ours(maps, more) == pytest.approx(ours(maps, objects), rel=1e-6)  # sums of other length
    none = {name: t[:, :0] for name, t in objects.items()}
    invalid = objects | {"box_valid": torch.zeros_like(objects["box_valid"])}
    assert ours(maps, none) == ours(maps, invalid)
    assert ours(maps, none)["size"] == 0.0


def test_the_loss_of_a_batch_is_the_mean_of_its_images() -> None:
    maps, objects = maps_of(), objects_of()
    each = [
        ours([cells[i : i + 1] for cells in maps], {name: t[i : i + 1] for name, t in objects.items()})
        for i in range(3)
    ]
    mean = {name: sum(one[name] for one in each) / 3 for name in each[0]}
    assert ours(maps, objects) == pytest.approx(mean, rel=1e-5)


def test_losses_do_not_wait_for_the_device() -> None:
    maps, objects, anchors = maps_of(), objects_of(), anchors_of()
    with NoHostReads():
        yolo_head.losses(maps, objects, anchors=anchors, strides=STRIDES, ignore_iou=0.5)


def test_maps_that_say_what_the_objects_are_give_their_boxes_back() -> None:
    """The targets, written into maps by their definition, are found again as boxes, classes and scores."""
    boxes = torch.tensor([[10.0, 12, 30, 40], [60, 20, 120, 90]])
    maps = [torch.full_like(cells, -20.0) for cells in maps_of(1)]
    for (x0, y0, x1, y1), label in zip(boxes.tolist(), (3, 1), strict=True):
        shapes = [overlap([0, 0, x1 - x0, y1 - y0], [0, 0, *anchor]) for anchor in ANCHORS]
        best = shapes.index(max(shapes))
        stride = STRIDES[best // 3]
        x, y = (x0 + x1) / 2 / stride, (y0 + y1) / 2 / stride
        cell = maps[best // 3][0, best % 3, int(y), int(x)]
        inside = [torch.logit(torch.tensor(value % 1.0)) for value in (x, y)]
        sizes = [math.log((x1 - x0) / ANCHORS[best][0]), math.log((y1 - y0) / ANCHORS[best][1])]
        cell[:5] = torch.tensor([*inside, *sizes, 20.0])
        cell[5 + label] = 20.0
    assert (
        sum(
            ours(
                maps,
                {
                    "boxes": boxes[None],
                    "box_label": torch.tensor([[3, 1]]),
                    "box_valid": torch.ones(1, 2, dtype=torch.bool),
                },
                ignore_iou=0.7,
            )[key]
            for key in ("size", "class", "objectness")
        )
        < 1e-3
    )
    settings: dict[str, Any] = {"score_threshold": 0.5, "nms_iou": 0.5, "max_detections": 10, "size": SIZE}
    found = yolo_head.detections(maps, anchors=anchors_of(), strides=STRIDES, **settings)
    assert found["box_valid"][0].tolist() == [True] * 2 + [False] * 8
    order = found["box_label"][0, :2].argsort(descending=True)
    torch.testing.assert_close(found["boxes"][0][order], boxes, rtol=0, atol=1e-3)
    assert found["box_label"][0][order].tolist() == [3, 1]


def test_of_overlapping_boxes_of_a_class_the_best_stays() -> None:
    maps = [torch.full_like(cells, -20.0) for cells in maps_of(2)]
    maps[0][0, 1, 2, 2] = torch.tensor([0.0, 0, 0, 0, 5, 5, -20, -20, -20, -20])
    maps[0][0, 1, 2, 3] = torch.tensor([-3.0, 0, 0, 0, 4, 5, 3, -20, -20, -20])  # nearly the same box, of two classes
    settings: dict[str, Any] = {"anchors": anchors_of(), "strides": STRIDES, "size": SIZE, "score_threshold": 0.1}
    found = yolo_head.detections(maps, nms_iou=0.5, max_detections=10, **settings)
    assert found["box_label"][:, :2].tolist() == [[0, 1], [0, 0]] and found["box_valid"].sum(1).tolist() == [2, 0]
    assert found["box_score"][0, 0] > found["box_score"][0, 1]
    both = yolo_head.detections(maps, nms_iou=1.0, max_detections=10, **settings)
    assert both["box_valid"].sum() == 3


def test_images_of_any_size_are_taken_and_boxes_stay_inside() -> None:
    model = YOLOv3(num_classes=CLASSES, backbone="tiny", width=4, score_threshold=0.0).eval()
    found = model(torch.randn(2, 3, 70, 101))
    assert found["boxes"].shape == (2, 100, 4) and found["box_valid"].all()
    assert (
        found["boxes"].min() >= 0
        and found["boxes"][..., [0, 2]].max() <= 101
        and found["boxes"][..., [1, 3]].max() <= 70
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchors": [[10, 10]]}, "model.anchors: 1 of them; expected 3, 6, 9"),
        (
            {"anchors": [[10, 10], [16, 0], [9, 9]]},
            "model.anchors: entry 2 is [16, 0], and no width and height above 0",
        ),
        ({"ignore_iou": 1.5}, "model.ignore_iou=1.5 must lie between 0 and 1"),
        ({"max_detections": 0}, "model.max_detections=0 must be 1 or more"),
        ({"backbone": "darknet54"}, "model.backbone='darknet54' is no timm model"),
        ({"backbone": "vit_tiny_patch16_224"}, "model.backbone=vit_tiny_patch16_224 has maps at"),
        ({"backbone": "tiny", "pretrained": True}, "has no published weights"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        YOLOv3(**{"num_classes": CLASSES, "backbone": "tiny"} | settings)
