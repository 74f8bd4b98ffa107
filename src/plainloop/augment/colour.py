"""Brightness, contrast, saturation, hue and sharpness, drawn for each image on the device that holds the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.augment import draws
from plainloop.augment.settings import check_probability, check_range, constant
from plainloop.contracts import Batch

LUMA = (0.2989, 0.587, 0.114)  # grey of red, green and blue (ITU-R 601-2), as in torchvision


def color_jitter(
    batch: Batch,
    step: int,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
    p: float = 1.0,
) -> Batch:
    """Changes colours by random factors, as torchvision's ColorJitter, in this order (there it is random).

    Args:
        brightness, contrast, saturation: the factor lies between 1 - x and 1 + x, and is not below 0.
        hue: turn of the colour circle, between -x and x, at most 0.5. Grey images have neither hue nor saturation.
        p: share of the images that are changed.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if value < 0:
            raise ValueError(f"augment: {name}={value} must be 0 or more")
    if not 0 <= hue <= 0.5:
        raise ValueError(f"augment: hue={hue} must lie between 0 and 0.5")
    check_probability(p)
    image = batch["image"]
    chosen = draws.chosen(batch, p)

    def factor(x: float) -> Tensor:
        drawn = draws.uniform(batch, low=max(0.0, 1 - x), high=1 + x)
        return torch.where(chosen, drawn, 1.0).to(image.dtype).view(-1, 1, 1, 1)

    image = (image * factor(brightness)).clamp(0, 1)
    mean = grey(image).mean(dim=(1, 2, 3), keepdim=True)
    image = mean.lerp(image, factor(contrast)).clamp(0, 1)
    if image.shape[1] == 3:
        image = grey(image).expand_as(image).lerp(image, factor(saturation)).clamp(0, 1)
        if hue:
            turn = torch.where(chosen, draws.uniform(batch, low=-hue, high=hue), 0.0)
            image = with_hue_turned(image, turn.to(image.dtype))
    return batch | {"image": image}


def gaussian_blur(
    batch: Batch, step: int, *, sigma: Sequence[float] = (0.1, 2.0), kernel: float = 0.1, p: float = 0.5
) -> Batch:
    """Blurs images (https://arxiv.org/abs/2002.05709), with reflected edges.

    Args:
        sigma: of the Gaussian in pixels, from and to.
        kernel: pixels of the kernel as a share of the image's shorter side; made odd, 3 at least.
        p: share of the images that are changed.
    """
    check_range(sigma, "sigma", low=1e-3)
    check_probability(kernel, "kernel")
    check_probability(p)
    image = batch["image"]
    number, channels, height, width = image.shape
    half = min(max(1, round(kernel * min(height, width)) // 2), min(height, width) - 1)
    place = torch.arange(-half, half + 1, device=image.device)
    weights = torch.exp(-0.5 * (place / draws.uniform(batch, 1, low=sigma[0], high=sigma[1])) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).to(image.dtype).repeat_interleave(channels, 0)[:, None]
    # Each image has its own kernel: all of them are groups of one convolution.
    padded = F.pad(image, [half] * 4, mode="reflect").view(1, number * channels, height + 2 * half, width + 2 * half)
    across = F.conv2d(padded, weights[:, :, None, :], groups=number * channels)
    blurred = F.conv2d(across, weights[:, :, :, None], groups=number * channels).view(image.shape)
    return batch | {"image": torch.where(draws.chosen(batch, p)[:, None, None, None], blurred, image)}


def grey(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W)."""
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    weights = constant(LUMA, image.dtype, image.device).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def with_hue_turned(image: Tensor, turn: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] with the hue of each image moved by `turn` (B,), in turns of the colour circle.

    Through hue, saturation and value: f(n) = v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6 for n = 5, 3, 1.
    """
    value, largest = image.max(1)
    chroma = value - image.min(1).values
    red, green, blue = image.unbind(1)
    safe = chroma.clamp(min=1e-12)
    sector = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], dim=1)
    hue = sector.gather(1, largest[:, None])[:, 0] + 6 * turn.view(-1, 1, 1)
    channels = []
    for number in (5, 3, 1):
        k = (number + hue) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)
