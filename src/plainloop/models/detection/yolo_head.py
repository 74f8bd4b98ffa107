"""What the numbers of YOLOv3's maps mean (https://arxiv.org/abs/1804.02767): the loss of objects, and detections.

Each map has, at each of its cells and for each of its anchors, five numbers and one per class: where in the cell the
centre is (as logits), how much larger than the anchor the box is (as logarithms), whether there is an object and of
which classes it is (as logits).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from plainloop.contracts import Batch
from plainloop.models.detection.boxes import area, as_batch, pairwise_iou, shape_iou, suppressed

LOSSES = ("centre", "size", "objectness", "class")
NUM_BOX = 5  # numbers before those of the classes
CANDIDATES = 1000  # of an image, at most, that suppression looks at


def losses(
    maps: Sequence[Tensor], objects: Batch, *, anchors: Tensor, strides: Sequence[int], ignore_iou: float
) -> dict[str, Tensor]:
    """Sums over the objects and cells of an image, as means over the images, by the names in `LOSSES`.

    An object belongs to the anchor, of all, whose shape is most like its own, in the cell of its centre. A cell without
    an object learns that it has none, unless what it predicts overlaps an object by more than `ignore_iou`. Two objects
    in the same place are both learned; Darknet overwrites the first. Small objects weigh more, by 2 minus their share
    of the image, as in Darknet.

    Args:
        maps: (B, A, h, w, 5 + classes) each, A = anchors of a map.
        objects: boxes (B, N, 4) in pixels of the image, box_label and box_valid (B, N).
        anchors: (len(maps), A, 2), widths and heights in pixels.
        strides: pixels of the image from one cell to the next.
    """
    boxes, valid = objects["boxes"].float(), objects["box_valid"]
    sizes, centres = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    valid = valid & (sizes > 0).all(-1)
    sizes = torch.where(valid[..., None], sizes, 1.0)
    per_map = anchors.shape[1]
    nearest = shape_iou(sizes, anchors.flatten(0, 1)).argmax(-1)
    image_area = maps[0].shape[2] * maps[0].shape[3] * strides[0] ** 2
    weights = 2 - area(boxes) / image_area
    numbers = torch.arange(maps[0].shape[-1] - NUM_BOX, device=boxes.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    for number, (cells, stride) in enumerate(zip(maps, strides, strict=True)):
        height, width = cells.shape[2:4]
        here = valid & (nearest // per_map == number)
        anchor = nearest % per_map
        places = centres / stride
        column, row = places[..., 0].long().clamp(0, width - 1), places[..., 1].long().clamp(0, height - 1)
        cell = (anchor * height + row) * width + column
        flat = cells.flatten(1, 3)
        at_objects = flat.gather(1, cell[..., None].expand(-1, -1, flat.shape[-1]))
        inside = places - torch.stack([column, row], -1)
        larger = (sizes / anchors[number][anchor]).log()
        of_class = (objects["box_label"][..., None] == numbers).to(flat.dtype)
        centre = F.binary_cross_entropy_with_logits(at_objects[..., :2], inside, reduction="none").sum(-1) * weights
        size = 0.5 * (at_objects[..., 2:4] - larger).square().sum(-1) * weights
        classes = F.binary_cross_entropy_with_logits(at_objects[..., NUM_BOX:], of_class, reduction="none").sum(-1)
        for name, values in (("centre", centre), ("size", size), ("class", classes)):
            parts[name].append(torch.where(here, values, 0.0).sum())
        parts["objectness"].append(
            _objectness(
                flat,
                torch.where(here, cell, flat.shape[1]),
                decoded(cells, anchors[number], stride),
                boxes,
                valid,
                ignore_iou,
            )
        )
    return {name: torch.stack(values).sum() / len(boxes) for name, values in parts.items()}


def _objectness(
    flat: Tensor, cell: Tensor, predicted: Tensor, boxes: Tensor, valid: Tensor, ignore_iou: float
) -> Tensor:
    """Over all cells of a map: flat (B, P, 5 + classes); cell (B, N) of the objects, P for those of another map."""
    has_object = flat.new_zeros(len(flat), flat.shape[1] + 1).scatter_(1, cell, 1.0)[:, :-1]
    with torch.no_grad():
        overlap = torch.where(valid[:, None], pairwise_iou(predicted.flatten(1, 3), boxes), 0.0)
        overlaps = F.pad(overlap, (0, 1)).amax(-1) > ignore_iou  # padded, for images without a single object
    counted = (has_object > 0) | ~overlaps
    all_cells = F.binary_cross_entropy_with_logits(flat[..., 4], has_object, reduction="none")
    return torch.where(counted, all_cells, 0.0).sum()


def decoded(cells: Tensor, anchors: Tensor, stride: int) -> Tensor:
    """The boxes of one map: (B, A, h, w, 5 + classes) -> (B, A, h, w, 4), in pixels of the image."""
    height, width = cells.shape[2:4]
    rows, columns = (torch.arange(length, device=cells.device, dtype=cells.dtype) for length in (height, width))
    corner = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], dim=-1)
    centres = (cells[..., :2].sigmoid() + corner) * stride
    halves = cells[..., 2:4].clamp(max=10).exp() * anchors[:, None, None] / 2  # beyond 10, no image is so large
    return torch.cat([centres - halves, centres + halves], dim=-1)


def detections(
    maps: Sequence[Tensor],
    *,
    anchors: Tensor,
    strides: Sequence[int],
    size: tuple[int, int],
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
) -> Batch:
    """Boxes inside images of this size (height, width), with classes and scores, the best first; always as many.

    A score is the product of both probabilities: that there is an object, and that it is of this class. Of boxes of one
    class that overlap by more than `nms_iou`, the best stays. Waits for the device.
    """
    boxes = torch.cat([decoded(cells, anchors[i], strides[i]).flatten(1, 3) for i, cells in enumerate(maps)], dim=1)
    flat = torch.cat([cells.flatten(1, 3) for cells in maps], dim=1)
    scores = flat[..., 4:5].sigmoid() * flat[..., NUM_BOX:].sigmoid()
    num_classes = scores.shape[-1]
    best, places = scores.flatten(1).topk(min(CANDIDATES, scores[0].numel()), dim=1)
    labels = places % num_classes
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    candidates = boxes.gather(1, (places // num_classes)[..., None].expand(-1, -1, 4)).clamp(min=0).minimum(limits)
    number = min(max_detections, best.shape[1])
    if boxes.is_meta:  # no values: there is nothing to choose by
        return as_batch([(b[:number], c[:number], s[:number]) for b, c, s in zip(candidates, labels, best)])
    if torch.compiler.is_exporting():
        return suppressed(
            candidates,
            labels,
            best,
            size=size,
            num_classes=num_classes,
            least_score=score_threshold,
            max_iou=nms_iou,
            most=number,
        )
    found = []
    for box, label, score in zip(candidates, labels, best, strict=True):
        sure = score > score_threshold
        box, label, score = box[sure], label[sure], score[sure]
        kept = batched_nms(box, score, label, nms_iou)[:number]
        found.append((box[kept], label[kept], score[kept]))
    return as_batch(found, number)
