"""Mixed images with mixed labels: one draw per sample, on the device. Partners come from the same rank's batch.

`label` (B,) becomes probabilities (B, num_classes). Where nothing is mixed any more, batches stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plainloop.augment import draws, spatial
from plainloop.augment.settings import check_probability, has_ended
from plainloop.contracts import Batch, Steps


def mixup(
    batch: Batch, step: int, *, num_classes: int, alpha: float = 0.2, p: float = 1.0, until: Steps | None = None
) -> Batch:
    """Blends each sample with another of its batch (https://arxiv.org/abs/1710.09412).

    One weight per sample from Beta(alpha, alpha), where the paper's code draws one per batch. `label` (B,) becomes
    probabilities (B, num_classes).

    Args:
        alpha: above 0; the larger, the more even the blend. The paper has 0.1 to 0.4 on ImageNet, 1 on CIFAR.
        p: share of the samples that are blended.
        until: off from this step on.
    """
    spatial.refuse(batch, "mixup")
    check(alpha, p)
    if has_ended(step, until):
        return batch
    kept = torch.where(draws.chosen(batch, p), draws.beta(batch, alpha), 1.0)
    return blended(batch, draws.partners(batch), kept, num_classes)


def cutmix(
    batch: Batch, step: int, *, num_classes: int, alpha: float = 1.0, p: float = 1.0, until: Steps | None = None
) -> Batch:
    """Pastes a rectangle of another sample into each one (https://arxiv.org/abs/1905.04899).

    The rectangle has 1 - lambda of the area, lambda from Beta(alpha, alpha), and a uniform centre; what lies outside
    the image is cut off. One rectangle per sample, where the paper's code has one per batch. `label` (B,) becomes
    probabilities (B, num_classes), each class with the share of the pixels that it has in the end. A mask is pasted as
    its image.
    """
    spatial.refuse(batch, "cutmix", ("instance_mask", *spatial.OUTLINES))
    check(alpha, p)
    if has_ended(step, until):
        return batch
    return pasted(batch, draws.partners(batch), draws.chosen(batch, p), draws.beta(batch, alpha), num_classes)


def mixup_or_cutmix(
    batch: Batch,
    step: int,
    *,
    num_classes: int,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    cutmix_share: float = 0.5,
    p: float = 1.0,
    until: Steps | None = None,
) -> Batch:
    """Either of the two for each sample, as DeiT trains (https://arxiv.org/abs/2012.12877; there one for each batch).

    Args:
        cutmix_share: probability of cutmix, of mixup otherwise.
        p: share of the samples that get one of them.
    """
    spatial.refuse(batch, "mixup_or_cutmix")
    check(mixup_alpha, p)
    check(cutmix_alpha, cutmix_share)
    if has_ended(step, until):
        return batch
    partners, any_, cut = draws.partners(batch), draws.chosen(batch, p), draws.chosen(batch, cutmix_share)
    kept = torch.where(any_ & ~cut, draws.beta(batch, mixup_alpha), 1.0)
    first = blended(batch, partners, kept, num_classes)
    second = pasted(batch, partners, any_ & cut, draws.beta(batch, cutmix_alpha), num_classes)
    return batch | {
        name: torch.where(_columns(any_ & cut, first[name]), second[name], first[name]) for name in ("image", "label")
    }


def blended(batch: Batch, partners: Tensor, kept: Tensor, num_classes: int) -> Batch:
    """Each sample with the weight `kept` (B,), its partner with the rest."""
    label = probabilities(batch["label"], num_classes)
    image = batch["image"]
    return batch | {
        "image": image.lerp(image[partners], (1 - _columns(kept, image)).to(image.dtype)),
        "label": label.lerp(label[partners], 1 - _columns(kept, label)),
    }


def pasted(batch: Batch, partners: Tensor, cut: Tensor, kept: Tensor, num_classes: int) -> Batch:
    """Each sample in `cut` (B,) with a rectangle of its partner, of 1 - kept of the area."""
    image = batch["image"]
    inside = rectangles(batch, share=torch.where(cut, 1 - kept, 0.0))
    result = batch | {"image": torch.where(inside, image[partners], image)}
    if "mask" in batch:
        result["mask"] = torch.where(inside[:, 0], batch["mask"][partners], batch["mask"])
    if "label" in batch:
        label = probabilities(batch["label"], num_classes)
        pasted_share = inside.float().mean(dim=(1, 2, 3))
        result["label"] = label.lerp(label[partners], _columns(pasted_share, label))
    return result


def rectangles(batch: Batch, *, share: Tensor) -> Tensor:
    """(B, 1, H, W) bool: rectangles of the images' shape and `share` (B,) of their area around uniform centres."""
    height, width = batch["image"].shape[-2:]
    centre = draws.uniform(batch, 2)
    inside = []
    for number, size in enumerate((height, width)):
        length = (share.sqrt() * size).floor()
        start = (centre[:, number] * size).floor() - (length / 2).floor()
        position = torch.arange(size, device=share.device)
        inside.append((position >= start[:, None]) & (position < (start + length)[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def probabilities(label: Tensor, num_classes: int) -> Tensor:
    """(B, num_classes) float32, of class numbers (B,) or of what is mixed already. Does not wait for the device."""
    if label.is_floating_point():
        return label
    return torch.zeros(len(label), num_classes, device=label.device).scatter_(1, label[:, None], 1.0)


def check(alpha: float, p: float) -> None:
    if alpha <= 0:
        raise ValueError(f"augment: alpha={alpha} must be above 0; p=0 mixes nothing")
    check_probability(p)


def _columns(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to go with `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
