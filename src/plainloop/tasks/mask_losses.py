"""Losses of logits (B, C, H, W) float32 for masks (B, H, W) int64: 0-d, over the pixels that are not IGNORE.

None of them waits for the device. `class_weights` is (C,) or None. Without a labelled pixel each of them is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.contracts import IGNORE


def cross_entropy(logits: Tensor, mask: Tensor, class_weights: Tensor | None, *, label_smoothing: float) -> Tensor:
    """The mean over pixels, each with the weight of its class."""
    settings = {"ignore_index": IGNORE, "label_smoothing": label_smoothing}
    losses = F.cross_entropy(logits, mask, class_weights, reduction="none", **settings)  # type: ignore[arg-type]
    # On CUDA torch's own sum is not deterministic.
    return losses.sum() / at_least_tiny(pixel_weights(mask, class_weights, logits.shape[1]).sum())


def dice(logits: Tensor, mask: Tensor, class_weights: Tensor | None) -> Tensor:
    """One minus the Dice coefficient of each class over the whole batch, averaged over classes
    (https://arxiv.org/abs/1606.04797). A class that no pixel has counts as 0.
    """
    target = one_hot(mask, logits.shape[1])
    predicted = logits.softmax(1) * (mask != IGNORE)[:, None]
    both, either = (predicted * target).sum((0, 2, 3)), (predicted + target).sum((0, 2, 3))
    losses = (1 - 2 * both / either.clamp(min=1e-7)) * (target.sum((0, 2, 3)) > 0)
    return mean_over_classes(losses, class_weights)


def lovasz(logits: Tensor, mask: Tensor, class_weights: Tensor | None) -> Tensor:
    """Lovasz-Softmax over the whole batch (https://arxiv.org/abs/1705.08790), averaged over classes that occur in it.

    `class_weights` has no effect. A pixel that is IGNORE has no error and no class: sorted last, it changes nothing.
    """
    target = one_hot(mask, logits.shape[1]).transpose(0, 1).flatten(1)  # (C, P)
    predicted = logits.softmax(1).transpose(0, 1).flatten(1)
    labelled = (mask != IGNORE).flatten()
    errors, order = ((target - predicted).abs() * labelled).sort(dim=1, descending=True)
    hit = target.gather(1, order).int()  # counted as integers: on CUDA cumsum of floats is not deterministic
    size = hit.sum(1, keepdim=True)
    jaccard = 1 - (size - hit.cumsum(1)) / (size + (1 - hit).cumsum(1)).float()
    gradient = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
    losses, occurs = (errors * gradient).sum(1), size[:, 0] > 0
    return (losses * occurs).sum() / occurs.sum().clamp(min=1)


def focal(logits: Tensor, mask: Tensor, class_weights: Tensor | None, *, gamma: float) -> Tensor:
    """One yes-or-no decision per class, in which sure answers count less (https://arxiv.org/abs/1708.02002).

    The mean over pixels and classes, each class with its weight.
    """
    labelled = (mask != IGNORE)[:, None]
    losses = F.binary_cross_entropy_with_logits(logits, one_hot(mask, logits.shape[1]), reduction="none")
    losses = (1 - (-losses).exp()) ** gamma * losses * labelled
    return mean_over_classes(losses.sum((0, 2, 3)) / labelled.sum().clamp(min=1), class_weights)


def ohem(logits: Tensor, mask: Tensor, class_weights: Tensor | None, *, threshold: float, min_kept: float) -> Tensor:
    """Cross entropy of the hard pixels alone (https://arxiv.org/abs/1604.03540), a mean weighted as cross entropy.

    Hard are those whose own class has a probability of at most `threshold`; at least `min_kept` of the labelled pixels
    are taken, the hardest first.
    """
    labelled = mask != IGNORE
    log_p = logits.log_softmax(1).gather(1, mask.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
    p = torch.where(labelled, log_p.detach().exp(), 2.0)
    last = (labelled.sum() * min_kept).ceil().long().clamp(min=1) - 1
    limit = p.flatten().sort().values.gather(0, last[None]).clamp(min=threshold, max=1.0)
    weights = pixel_weights(mask, class_weights, logits.shape[1]) * (p <= limit)
    return -(log_p * weights).sum() / at_least_tiny(weights.sum())


def pixel_weights(mask: Tensor, class_weights: Tensor | None, num_classes: int) -> Tensor:
    """(B, H, W) float32: the weight of each pixel's class, or 1; 0 where it is IGNORE."""
    labelled = mask != IGNORE
    if class_weights is None:
        return labelled.float()
    return class_weights[mask.clamp(max=num_classes - 1)] * labelled


def one_hot(mask: Tensor, num_classes: int) -> Tensor:
    """(B, C, H, W) float32; no class where it is IGNORE. torch's own waits for the device to look at the range."""
    return (mask[:, None] == torch.arange(num_classes, device=mask.device).view(1, -1, 1, 1)).float()


def mean_over_classes(losses: Tensor, class_weights: Tensor | None) -> Tensor:
    return losses.mean() if class_weights is None else (losses * class_weights).sum() / class_weights.sum()


def at_least_tiny(total: Tensor) -> Tensor:
    return total.clamp(min=torch.finfo(total.dtype).tiny)
