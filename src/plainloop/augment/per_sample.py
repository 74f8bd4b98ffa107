"""Makes a transform of one image, such as torchvision's, an augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plainloop.contracts import Augment, Batch


class PerSample:
    """Applies a transform to each image of a batch; transforms of torchvision are wrapped in it by themselves.

    Sources with workers apply it there, to uint8 images of any size. For sets in memory it runs image by image on float
    images in [0, 1], which is slow on a GPU, and all results must have the same size.

    Args:
        transform: image (C, H, W) -> image; draws from the global generators.
    """

    def __init__(self, *, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __repr__(self) -> str:
        return repr(self.transform)

    def sample(self, image: Tensor) -> Tensor:
        return self.transform(image)

    def __call__(self, batch: Batch, step: int) -> Batch:
        return batch | {"image": torch.stack([self.transform(image) for image in batch["image"]])}


def as_augmentation(function: Augment) -> Augment:
    """What torchvision makes for one image becomes an augmentation of batches; all others stay as they are."""
    is_torchvisions = type(function).__module__.startswith("torchvision.transforms")
    return PerSample(transform=function) if is_torchvisions else function  # type: ignore[arg-type]  # it takes one image
