"""Random sizes and parts of images, as segmentation is trained, and detection with large-scale jitter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plainloop.augment import draws, spatial
from plainloop.augment.settings import canvas, check_probability, check_range, constant, filling
from plainloop.contracts import Batch, Sample


class RandomScaleCrop:
    """Resizes each image by a random factor and cuts out a random part; where the image ends, `fill` goes on.

    Masks get the nearest class, and IGNORE outside of the image (https://arxiv.org/abs/1606.00915, section 4.1). In
    workers, on single images of any size, only the part that is kept is resized, with antialiasing. A whole batch is
    resized bilinearly on its device.

    Args:
        size: pixels, of the result; (H, W) or one number for both.
        scale: the factor, uniform from and to.
        scale_step: only factors that are this far apart, the first and the last included; None: any.
        fill: one number per channel in [0, 1].
        fit: a factor of 1 makes an image just fit into `size`, whatever its pixels; with `scale` 0.1 to 2 this is
            large-scale jitter (https://arxiv.org/abs/2012.07177). Otherwise it leaves the pixels as they are.
        min_visible: an object of which less than this share of the box is left is not valid any more.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0),
        scale_step: float | None = None,
        fill: Sequence[float] = (0.5,),
        fit: bool = False,
        min_visible: float = 0.1,
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else (size[0], size[-1])
        if min(self.size) < 1:
            raise ValueError(f"augment: size={size} must be one number of pixels or two, height and width")
        check_range(scale, "scale", low=1e-3)
        steps = (scale[1] - scale[0]) / scale_step if scale_step else 0.0
        if scale_step is not None and (scale_step <= 0 or abs(steps - round(steps)) > 1e-6):
            raise ValueError(f"augment: scale_step={scale_step} must divide scale={list(scale)} into equal parts")
        check_probability(min_visible, "min_visible")
        self.fit, self.min_visible = fit, min_visible
        self.scale, self.fill = (scale[0], scale[1]), tuple(fill)
        self.scale_step, self.num_scales = scale_step, round(steps) + 1

    def __call__(self, batch: Batch, step: int) -> Batch:
        image = batch["image"]
        if self.scale_step is None:
            scale = draws.uniform(batch, low=self.scale[0], high=self.scale[1])
        else:
            scale = self.scale[0] + self.scale_step * draws.integers(batch, below=self.num_scales)
        sides = constant(tuple(reversed(self.size)), scale.dtype, scale.device)
        lengths = constant((image.shape[-1], image.shape[-2]), scale.dtype, scale.device)
        part = sides / (scale[:, None] * self.fitting(*image.shape[-2:]) * lengths)  # above 1 where it is padded
        matrix = spatial.window(part, (1 - part) * (2 * draws.uniform(batch, 2) - 1)).to(image.dtype)
        fill = filling(image, self.fill)
        return spatial.resampled(batch, matrix, size=self.size, fill=fill, min_visible=self.min_visible)

    def fitting(self, height: int, width: int) -> float:
        """What a factor of 1 is for such an image."""
        return min(self.size[0] / height, self.size[1] / width) if self.fit else 1.0

    def sample(self, sample: Sample) -> Sample:
        """image (C, H, W) uint8 -> (C, *size), in a worker."""
        image = sample["image"]
        if self.scale_step is None:
            scale = float(torch.empty(()).uniform_(*self.scale))
        else:
            scale = self.scale[0] + self.scale_step * int(torch.randint(self.num_scales, ()))
        scale *= self.fitting(*image.shape[-2:])
        vertical, horizontal = (
            Span.drawn(length, side, scale) for length, side in zip(image.shape[-2:], self.size, strict=True)
        )

        def pixels(values: Tensor) -> Tensor:
            part = values[..., vertical.source, horizontal.source]
            part = part.contiguous(memory_format=torch.channels_last)  # resized in half the time
            part = F.resize(part, [vertical.length, horizontal.length])
            if part.shape[-2:] == self.size:
                return part
            result = canvas(values, self.size, self.fill)
            result[..., vertical.target, horizontal.target] = part
            return result

        def classes(values: Tensor) -> Tensor:
            result = values.new_zeros(*values.shape[:2], *self.size)
            rows, columns = vertical.nearest(), horizontal.nearest()
            result[..., vertical.target, horizontal.target] = values[..., rows[:, None], columns]
            return result

        def points(places: Tensor) -> Tensor:
            return torch.stack([horizontal.moved(places[..., 0]), vertical.moved(places[..., 1])], dim=-1)

        one = {name: tensor[None] for name, tensor in sample.items()}
        result = spatial.moved(one, pixels, points, classes=classes, min_visible=self.min_visible)
        return {name: tensor[0] for name, tensor in result.items()}


class Span:
    """Along one side: which pixels of the image are kept, and where they come to lie."""

    def __init__(self, source: slice, target: slice) -> None:
        self.source, self.target = source, target
        self.length = target.stop - target.start

    @classmethod
    def drawn(cls, length: int, side: int, scale: float) -> Span:
        """The part of a side of `length` pixels, scaled, that is seen in `side` pixels."""
        scaled = max(1, round(length * scale))
        least, most = min(0, scaled - side), max(0, scaled - side)
        start = int(torch.randint(least, most + 1, ()))
        first, last = max(0, start), min(scaled, start + side)
        source = slice(first * length // scaled, -(-last * length // scaled))
        return cls(source, slice(first - start, last - start))

    def nearest(self) -> Tensor:
        """(length,) int64: the pixel of the image that lies at each place."""
        width = self.source.stop - self.source.start
        return self.source.start + (2 * torch.arange(self.length) + 1) * width // (2 * self.length)

    def moved(self, places: Tensor) -> Tensor:
        width = self.source.stop - self.source.start
        return (places - self.source.start) * (self.length / width) + self.target.start
