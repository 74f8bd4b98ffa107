"""What sources of images with masks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plainloop.contracts import Batch


def mask_batch(facts: Mapping[str, Any], batch_size: int) -> Batch:
    """An example batch: image (B, C, H, W) uint8, mask (B, H, W) int64, index (B,) int64 on the meta device."""
    import torch

    with torch.device("meta"):
        image = torch.empty(batch_size, *facts["image_shape"], dtype=torch.uint8)
        mask = torch.empty(batch_size, *facts["image_shape"][1:], dtype=torch.int64)
        index = torch.empty(batch_size, dtype=torch.int64)
    return {"image": image, "mask": mask, "index": index}


def refuse_class_balanced(sampler: str) -> None:
    if sampler == "class_balanced":
        raise ValueError(
            "data.sampler=class_balanced: an image with a mask has no single class; type data.sampler=shuffled, and "
            "task.class_weights=[...] for rare classes"
        )
