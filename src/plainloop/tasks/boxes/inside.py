"""What of the detections lies in the photograph: an image of a batch may have grey beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from plainloop.contracts import Batch


def inside(found: Batch, batch: Batch) -> Batch:
    """The detections, boxes and masks cut off at the edges of the photograph; without those of whose box nothing is
    left.

    The photograph has image_size (B, 2) times image_scale (B,) pixels of the image in the batch; without these entries
    it is the whole image. Never waits for the device.
    """
    limits = limits_of(batch, found["boxes"])  # (B or 1, 2): height and width
    boxes = found["boxes"].clamp(min=0).minimum(limits.flip(1).repeat(1, 2)[:, None])
    found = found | {"boxes": boxes, "box_valid": found["box_valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)}
    if "instance_mask" in found and "image_size" in batch:
        lengths = whole_pixels(limits)
        masks = found["instance_mask"]
        rows, columns = (
            torch.arange(side, device=masks.device) < length[:, None]
            for side, length in zip(masks.shape[-2:], lengths.unbind(1), strict=True)
        )
        found["instance_mask"] = masks & rows[:, None, :, None] & columns[:, None, None]
    return found


def whole_pixels(limits: Tensor) -> Tensor:
    """As the images were resized. A factor in float32 makes 123.49999 of 123.5, so that some digits are left out."""
    return limits.round(decimals=4).round().clamp(min=1).long()


def limits_of(batch: Batch, boxes: Tensor) -> Tensor:
    if "image_size" in batch:
        return batch["image_size"].to(boxes) * batch["image_scale"].to(boxes)[:, None]
    return torch.stack([boxes.new_full((1,), side) for side in batch["image"].shape[-2:]], dim=1)
