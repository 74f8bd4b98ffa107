"""Any transform of single images as an augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plainloop.contracts import Batch


class PerSample:
    """Makes an augmentation of a transform of one image, such as those of torchvision.transforms.v2.

    Data sources with workers apply it there, to uint8 images of any size. For data in memory it runs image by image on
    float images in [0, 1], which is slow on a GPU; all results must then have the same size.

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
