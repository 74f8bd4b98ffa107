"""Masks and logits at toy size, and a task on them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.contracts import IGNORE, Batch
from plainloop.tasks.segmentation import Segmentation

CLASSES = 4
WEIGHTS = [1.0, 2.0, 0.5, 3.0]


class Logits(nn.Module):
    """Takes the images for logits; `heads` more in training, at a half of the size."""

    def __init__(self, heads: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.heads = heads

    def forward(self, image: Tensor) -> Any:
        logits = image * self.scale
        return [logits, *[logits[..., ::2, ::2]] * self.heads] if self.heads and self.training else logits


def batch_of(num: int = 4, *, seed: int = 0, ignored: float = 0.3, size: tuple[int, int] = (6, 10)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, CLASSES, (num, *size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < ignored] = IGNORE
    return {"image": 2 * torch.randn(num, CLASSES, *size, generator=generator), "mask": mask}


def rows(batch: Batch, part: slice) -> Batch:
    return {name: tensor[part] for name, tensor in batch.items()}


def task_of(**settings: Any) -> Segmentation:
    return Segmentation(**{"num_classes": CLASSES} | settings)


def loss_of(task: Segmentation, batch: Batch) -> float:
    return task.loss(Logits(), batch)[0].item()


def small(batch: Batch) -> Batch:
    """The model gives a quarter of the pixels."""
    return batch | {"image": F.avg_pool2d(batch["image"], 2)}
