"""Boxes (..., 4): x0 y0 x1 y1 in pixels. Overlaps of whole batches, and detections as a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

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


def as_batch(found: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    """Boxes (n, 4), labels (n,) and scores (n,) of each image, padded to the largest n."""
    longest = max((len(boxes) for boxes, _, _ in found), default=0)
    boxes = torch.stack([F.pad(boxes, (0, 0, 0, longest - len(boxes))) for boxes, _, _ in found])
    labels, scores = (torch.stack([F.pad(one[i], (0, longest - len(one[i]))) for one in found]) for i in (1, 2))
    numbers = torch.arange(longest, device=boxes.device)
    valid = torch.stack([numbers < len(one) for one, _, _ in found])
    return {"boxes": boxes, "box_label": labels, "box_score": scores, "box_valid": valid}
