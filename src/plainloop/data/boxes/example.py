"""What sources of images with boxes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plainloop.contracts import Batch

NUM_OBJECTS = 3  # of an image of the example batch


def box_batch(facts: Mapping[str, Any], batch_size: int) -> Batch:
    """An example batch on the meta device: image (B, C, H, W) uint8, boxes (B, N, 4), box_label and box_valid (B, N),
    index (B,) int64.
    """
    import torch

    with torch.device("meta"):
        return {
            "image": torch.empty(batch_size, *facts["image_shape"], dtype=torch.uint8),
            "boxes": torch.empty(batch_size, NUM_OBJECTS, 4),
            "box_label": torch.empty(batch_size, NUM_OBJECTS, dtype=torch.int64),
            "box_valid": torch.empty(batch_size, NUM_OBJECTS, dtype=torch.bool),
            "index": torch.empty(batch_size, dtype=torch.int64),
        }


def refuse_labels(sampler: str, only_classes: Sequence[str | int] | None) -> None:
    """Raises ValueError for what wants one label for an image."""
    if sampler == "class_balanced":
        raise ValueError(
            "data.sampler=class_balanced: an image with boxes has no single class; type data.sampler=shuffled"
        )
    if only_classes is not None:
        raise ValueError("data.only_classes is for images with one label; leave it out")
