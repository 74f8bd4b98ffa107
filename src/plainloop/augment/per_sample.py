"""Any transform of single images as an augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plainloop.contracts import Batch


class PerSample:
    """Makes a transform of one image, such as any of torchvision.transforms.v2, an augmentation.

    Sources with workers apply it there, to uint8 images of any size. For sets in memory it runs image by image on float
    images in [0, 1], which is slow on a GPU; all results must then have one size.

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
