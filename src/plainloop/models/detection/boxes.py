"""Boxes (..., 4): x0 y0 x1 y1 in pixels. Overlaps of whole batches, and detections as a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from plainloop.contracts import Batch

OBJECTS = ("boxes", "box_label", "box_valid")  # what a detector learns from, beside the image


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of all pairs: (B, P, 4) and (B, N, 4) -> (B, P, N); 0 where both are empty.

    >>> pairwise_iou(torch.tensor([[[0.0, 0, 2, 2]]]), torch.tensor([[[1.0, 1, 3, 3], [5, 5, 6, 6]]]))
    tensor([[[0.1429, 0.0000]]])
    """
    ends = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    starts = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    shared = (ends - starts).clamp(min=0).prod(-1)
    both = area(boxes)[:, :, None] + area(others)[:, None] - shared
    return shared / both.clamp(min=torch.finfo(both.dtype).tiny)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...)."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes with one centre: widths and heights (..., 2) and (A, 2) -> (..., A)."""
    shared = torch.minimum(sizes[..., None, :], others).prod(-1)
    return shared / (sizes.prod(-1)[..., None] + others.prod(-1) - shared).clamp(min=torch.finfo(sizes.dtype).tiny)


def as_batch(found: Sequence[tuple[Tensor, Tensor, Tensor]], length: int | None = None) -> Batch:
    """Boxes (n, 4), labels (n,) and scores (n,) of each image, padded to `length`; None: the largest n."""
    longest = max((len(boxes) for boxes, _, _ in found), default=0) if length is None else length
    boxes = torch.stack([F.pad(boxes, (0, 0, 0, longest - len(boxes))) for boxes, _, _ in found])
    labels, scores = (torch.stack([F.pad(one[i], (0, longest - len(one[i]))) for one in found]) for i in (1, 2))
    numbers = torch.arange(longest, device=boxes.device)
    valid = torch.stack([numbers < len(one) for one, _, _ in found])
    return {"boxes": boxes, "box_label": labels, "box_score": scores, "box_valid": valid}


def suppressed(
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    size: tuple[int, int],
    num_classes: int,
    least_score: float,
    max_iou: float,
    most: int,
) -> Batch:
    """`most` detections of each image, the best first, by steps that a graph can hold.

    Images and classes are laid out beside one another, so that one suppression serves all of them. Far from the first
    image that costs digits: an overlap is exact to about 1e-7 times the sides of that sheet.

    Args:
        boxes: (B, K, 4) in images of this size (height, width); labels and scores (B, K).
        least_score: only boxes with a higher score take part.
    """
    across = math.ceil(num_classes**0.5)
    down = math.ceil(num_classes / across)
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None]  # len() would fix the number
    corner = torch.stack([labels % across * size[1], (images * down + labels // across) * size[0]], dim=-1)
    sheet = (boxes + torch.cat([corner, corner], dim=-1)).flatten(0, 1)
    sure = (scores > least_score).flatten().nonzero()[:, 0]
    # The exporter believes that two boxes stay at least: these two, of the lowest score, outside of all images.
    outside = boxes.new_tensor([[-2.0, -2, -1, -1], [-4, -4, -3, -3]])
    places = torch.cat([sure, sure.new_full((2,), sheet.shape[0])])
    kept = nms(torch.cat([sheet[sure], outside]), torch.cat([scores.flatten()[sure], scores.new_zeros(2)]), max_iou)
    stays = scores.new_zeros(sheet.shape[0] + 1).scatter(0, places[kept], 1.0)[:-1].view_as(scores) > 0
    best, chosen = torch.where(stays, scores, -1.0).topk(min(most, scores.shape[1]), dim=1)
    valid = best >= 0
    return {
        "boxes": torch.where(valid[..., None], taken(boxes, chosen), 0.0),
        "box_label": torch.where(valid, labels.gather(1, chosen), 0),
        "box_score": best.clamp(min=0),
        "box_valid": valid,
    }


def taken(rows: Tensor, places: Tensor) -> Tensor:
    """The rows at these places (B, K) of each image: (B, N, V) -> (B, K, V)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[-1]))
