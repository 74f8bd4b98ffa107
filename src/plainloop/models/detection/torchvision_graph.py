"""What torchvision's detectors find, by steps that a graph can hold: for exported files.

torchvision takes one image after the other, and counts after each step how many boxes are left. Here all images have
the same number of rows at each step, and a row that torchvision would drop gets a score below 0. Layers, anchors and
what decodes boxes are the model's own, so the detections are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image, roi_align

from plainloop.contracts import Batch
from plainloop.models.detection.boxes import suppressed, taken

DROPPED = -1.0  # a score
LEAST_MASK = 0.5  # probability of a pixel that belongs to an object
LEAST_SIDE = 1e-2  # pixels: torchvision drops narrower detections of models of two stages

Size = tuple[int, int]  # height, width
Maps = dict[str, Tensor]


def graph_detections(detector: Any, image: Tensor) -> Batch:
    """Images (B, C, H, W) to detections: `detections_per_img` rows for each image, the best first.

    The detector is one of torchvision_models, and has seen a batch: models of two stages learn from it the scales of
    their maps.
    """
    size = image.shape[-2], image.shape[-1]
    whole = detector.transform.size_divisible  # torchvision pads
    image = F.pad(image, (0, -size[1] % whole, 0, -size[0] % whole))
    maps: Maps = detector.backbone(image)
    images = ImageList(image[:1], [size])  # the anchors of one image are those of all
    if hasattr(detector, "rpn"):
        proposals = proposals_of(detector.rpn, maps, images)
        found = boxes_of_proposals(detector.roi_heads, maps, proposals, size)
        return found | masks_of(detector.roi_heads, maps, found, size) if detector.roi_heads.has_mask() else found
    outputs = detector.head([*maps.values()])
    [anchors] = detector.anchor_generator(images, [*maps.values()])
    find = best_of_each_class if isinstance(detector, SSD) else best_of_each_map
    boxes, labels, scores = find(detector, outputs, anchors, [one.shape[-2] * one.shape[-1] for one in maps.values()])
    return suppressed(
        clip_boxes_to_image(boxes, size),
        labels,
        scores,
        size=size,
        num_classes=int(outputs["cls_logits"].shape[-1]),
        least_score=detector.score_thresh,
        max_iou=detector.nms_thresh,
        most=detector.detections_per_img,
    )


def best_of_each_map(
    detector: Any, outputs: Maps, anchors: Tensor, cells: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, K, 4), labels and scores (B, K) of RetinaNet and FCOS: at most `topk_candidates` of each map."""
    scores, num_classes = outputs["cls_logits"].sigmoid(), outputs["cls_logits"].shape[-1]
    if isinstance(detector, FCOS):
        scores = (scores * outputs["bbox_ctrness"].sigmoid()).sqrt()
    found, first = [], 0
    for number in cells:
        last = first + number * (len(anchors) // sum(cells))
        here = scores[:, first:last].flatten(1)
        best, places = here.topk(min(detector.topk_candidates, here.shape[1]), dim=1)
        rows = first + places // num_classes
        boxes = decoded(detector, taken(outputs["bbox_regression"], rows), anchors[rows])
        found.append((boxes, places % num_classes, best))
        first = last
    boxes, labels, scores = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return boxes, labels, scores


def best_of_each_class(
    detector: Any, outputs: Maps, anchors: Tensor, _cells: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of SSD: at most `topk_candidates` of each class; class 0 is the background."""
    of_classes = outputs["cls_logits"].softmax(-1)[..., 1:].transpose(1, 2)
    scores, rows = of_classes.topk(min(detector.topk_candidates, len(anchors)), dim=-1)
    labels = torch.arange(scores.shape[1], device=scores.device)[:, None].expand_as(scores)
    regression = outputs["bbox_regression"]
    boxes = decoded(detector, regression, anchors.expand_as(regression))
    return taken(boxes, rows.flatten(1)), labels.flatten(1), scores.flatten(1)


def decoded(part: Any, regression: Tensor, anchors: Tensor) -> Tensor:
    """Both (B, N, 4), or a regression for each of C classes (B, N, 4 C) -> boxes alike."""
    coder, codes, rows = part.box_coder, regression.flatten(0, 1), anchors.flatten(0, 1)
    boxes: Tensor = coder.decode(codes, rows) if isinstance(part, FCOS) else coder.decode_single(codes, rows)
    return boxes.view_as(regression)


def proposals_of(rpn: Any, maps: Maps, images: ImageList) -> Batch:
    """Where an object may be: `post_nms_top_n` boxes for each image, of any class."""
    features = [*maps.values()]
    objectness, regression = rpn.head(features)
    [anchors] = rpn.anchor_generator(images, features)
    per_map = [one[0].numel() for one in objectness]
    logits, codes = concat_box_prediction_layers(objectness, regression)
    logits, codes = logits.view(-1, len(anchors)), codes.view(-1, len(anchors), 4)
    chosen, levels, first = [], [], 0
    for level, number in enumerate(per_map):
        best = logits[:, first : first + number].topk(min(rpn.pre_nms_top_n(), number), dim=1).indices
        chosen.append(first + best)
        levels.append(torch.full_like(best, level))
        first += number
    rows = torch.cat(chosen, dim=1)
    boxes = clip_boxes_to_image(decoded(rpn, taken(codes, rows), anchors[rows]), images.image_sizes[0])
    scores = logits.gather(1, rows).sigmoid()
    return suppressed(
        boxes,
        torch.cat(levels, dim=1),
        torch.where((scores >= rpn.score_thresh) & ~narrow(boxes, rpn.min_size), scores, DROPPED),
        size=images.image_sizes[0],
        num_classes=len(per_map),
        least_score=DROPPED,
        max_iou=rpn.nms_thresh,
        most=rpn.post_nms_top_n(),
    )


def boxes_of_proposals(heads: Any, maps: Maps, proposals: Batch, size: Size) -> Batch:
    """The second stage: each proposal may be of each class, with a box of its own; class 0 is the background."""
    cut = pooled(heads.box_roi_pool, maps, proposals["boxes"])
    logits, codes = (one.unflatten(0, proposals["box_valid"].shape) for one in heads.box_predictor(heads.box_head(cut)))
    num_classes = logits.shape[-1] - 1
    scores = logits.softmax(-1)[..., 1:]
    boxes = decoded(heads, codes, proposals["boxes"]).unflatten(-1, (-1, 4))[:, :, 1:].flatten(1, 2)
    boxes = clip_boxes_to_image(boxes, size)
    stays = proposals["box_valid"][..., None].expand_as(scores).flatten(1) & ~narrow(boxes, LEAST_SIDE)
    labels = torch.arange(num_classes, device=scores.device).expand_as(scores)
    return suppressed(
        boxes,
        labels.flatten(1),
        torch.where(stays, scores.flatten(1), DROPPED),
        size=size,
        num_classes=num_classes,
        least_score=heads.score_thresh,
        max_iou=heads.nms_thresh,
        most=heads.detections_per_img,
    )


def masks_of(heads: Any, maps: Maps, found: Batch, size: Size) -> Batch:
    """instance_mask (B, N, H, W) bool of the detections (B, N)."""
    logits = heads.mask_predictor(heads.mask_head(pooled(heads.mask_roi_pool, maps, found["boxes"])))
    of_class = (found["box_label"] + 1).flatten()[:, None, None, None].expand(-1, 1, *logits.shape[-2:])
    masks, scale = expand_masks(logits.gather(1, of_class).sigmoid(), 1)
    boxes = expand_boxes(found["boxes"].flatten(0, 1), scale).long()
    rows = weights_along(boxes[:, 1], boxes[:, 3], size[0], masks.shape[-1])
    columns = weights_along(boxes[:, 0], boxes[:, 2], size[1], masks.shape[-1])
    pasted = rows @ masks[:, 0] @ columns.transpose(1, 2)
    valid = found["box_valid"]
    return {"instance_mask": (pasted >= LEAST_MASK).unflatten(0, valid.shape) & valid[..., None, None]}


def weights_along(start: Tensor, end: Tensor, side: int, cells: int) -> Tensor:
    """(N, side, cells): how much of each cell of a mask a pixel gets, if its cells lie from `start` to `end`.

    Those of bilinear interpolation, in one direction; start and end (N,) are the first and the last pixel.
    """
    pixels = torch.arange(side, device=start.device) - start[:, None]
    length = (end - start + 1).clamp(min=1)[:, None]
    place = ((pixels + 0.5) * (cells / length) - 0.5).clamp(min=0, max=cells - 1)
    weights = (1 - (place[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)
    return torch.where(((pixels >= 0) & (pixels < length))[..., None], weights, 0.0)


def pooled(pool: Any, maps: Maps, boxes: Tensor) -> Tensor:
    """What lies below the boxes (B, N, 4), from the map that fits the size of each: (B * N, channels, side, side)."""
    flat = boxes.flatten(0, 1)
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
    regions = torch.cat([images[:, None].to(flat), flat], dim=1)
    levels = pool.map_levels([flat])
    found: Tensor | None = None
    for level, (name, scale) in enumerate(zip(pool.featmap_names, pool.scales, strict=True)):
        here = (levels == level).nonzero()[:, 0]
        cut = roi_align(maps[name], regions[here], pool.output_size, scale, pool.sampling_ratio)
        if found is None:
            found = cut.new_zeros(flat.shape[0], *cut.shape[1:])
        found = found.index_put((here,), cut)
    assert found is not None
    return found


def narrow(boxes: Tensor, least: float) -> Tensor:
    return ((boxes[..., 2:] - boxes[..., :2]) < least).any(-1)
