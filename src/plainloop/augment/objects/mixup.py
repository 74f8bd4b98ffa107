"""Two images of a batch blended, with the objects of both."""

from __future__ import annotations

import torch

from plainloop.augment import draws, mixing, spatial
from plainloop.augment.objects import rows
from plainloop.augment.settings import has_ended
from plainloop.contracts import Batch, Steps

LEAST = 0.1  # weight of an image whose objects count; what is fainter cannot be learned


def mixup_boxes(batch: Batch, step: int, *, alpha: float = 1.5, p: float = 1.0, until: Steps | None = None) -> Batch:
    """Blends each image with another of its batch and keeps the objects of both (https://arxiv.org/abs/1902.04103).

    The weight is drawn from Beta(alpha, alpha) for each image. The paper weighs the loss of an object by that of its
    image; here every object counts fully, as in YOLOX, but for those of an image with a weight below 0.1, which go.

    Args:
        p: share of the images that are blended.
        until: off from this step on.
    """
    spatial.refuse(batch, "mixup_boxes", ("mask", "label"))
    mixing.check(alpha, p)
    if has_ended(step, until):
        return batch
    image, partners = batch["image"], draws.partners(batch)
    kept = torch.where(draws.chosen(batch, p), draws.beta(batch, alpha), 1.0)
    parts = [dict(batch), {name: batch[name][partners] for name in rows.names(batch)}]
    for part, weight in zip(parts, (kept, 1 - kept), strict=True):
        if "box_valid" in part:
            part["box_valid"] = part["box_valid"] & (weight >= LEAST)[:, None]
    return rows.joined(parts) | {"image": image.lerp(image[partners], (1 - kept).to(image.dtype)[:, None, None, None])}
