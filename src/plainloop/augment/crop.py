"""Random parts of images, resized."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from plainloop.augment import draws, spatial
from plainloop.augment.per_sample import transform_sample
from plainloop.contracts import Batch, Sample

TRIES = 10  # as in torchvision; what none of them fits gets the largest central part within `ratio`


class RandomResizedCrop:
    """Cuts out a random part of each image and resizes it (https://arxiv.org/abs/1409.4842).

    In workers, on single images of any size, torchvision resizes with antialiasing. A whole batch is resized bilinearly
    on its device. Both draw the part in the same way.

    Args:
        size: pixels, of the result; (H, W) or one number for both.
        scale: share of the image's area, from and to. Raise the first for small models, which such crops hurt.
        ratio: width by height, from and to.
    """

    def __init__(
        self, *, size: int | Sequence[int], scale: Sequence[float] = (0.08, 1), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"augment: size={size} must be one number of pixels or two, height and width")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"augment: scale={list(scale)} must be two shares of the area in rising order, as [0.08, 1]"
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"augment: ratio={list(ratio)} must be two ratios in rising order, as [0.75, 1.3333]")
        self.scale, self.ratio = (scale[0], scale[1]), (ratio[0], ratio[1])
        self.sample_transform = v2.RandomResizedCrop(self.size, self.scale, self.ratio, antialias=True)

    def sample(self, sample: Sample) -> Sample:
        """image (C, H, W) -> (C, *size), in a worker."""
        if any(name in sample for name in spatial.SPATIAL):
            return transform_sample(self.sample_transform, sample)
        image = sample["image"]
        part = self.sample_transform.make_params([image])
        top, left, height, width = (part[name] for name in ("top", "left", "height", "width"))
        cut = image[None, :, top : top + height, left : left + width]
        # What torchvision computes; channels last in memory, it takes a third of the time.
        cut = cut.contiguous(memory_format=torch.channels_last)
        resized = F.interpolate(cut, self.size, mode="bilinear", antialias=True)
        return sample | {"image": resized[0]}

    def __call__(self, batch: Batch, step: int) -> Batch:
        """image (B, C, H, W) float -> (B, C, *size), on the same device."""
        height, width = batch["image"].shape[-2:]
        top, left, h, w = self.parts(batch)
        part = torch.stack([w / width, h / height], dim=1)
        centre = torch.stack([(2 * left + w) / width - 1, (2 * top + h) / height - 1], dim=1)
        return spatial.resampled(batch, spatial.window(part, centre), size=self.size, border=True)

    def parts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each image's part, in whole pixels: (B,) float each."""
        height, width = batch["image"].shape[-2:]
        area = height * width * draws.uniform(batch, TRIES, low=self.scale[0], high=self.scale[1])
        ratio = draws.log_uniform(batch, TRIES, low=self.ratio[0], high=self.ratio[1])
        place = draws.uniform(batch, 2).unbind(1)

        h, w = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
        first = fits.byte().argmax(dim=1, keepdim=True)
        some = fits.any(dim=1)
        # The largest part whose ratio is allowed; the whole image if its own ratio is.
        central_h, central_w = min(height, round(width / self.ratio[0])), min(width, round(height * self.ratio[1]))
        h = torch.where(some, h.gather(1, first).squeeze(1), central_h)
        w = torch.where(some, w.gather(1, first).squeeze(1), central_w)
        top = torch.where(some, (place[0] * (height - h + 1)).floor(), (height - central_h) // 2)
        left = torch.where(some, (place[1] * (width - w + 1)).floor(), (width - central_w) // 2)
        return top, left, h, w
