"""Brightness, contrast, saturation, hue and sharpness, drawn for each image on the device that holds the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.augment import draws
from plainloop.augment.settings import check_probability, check_range, is_large_on_cpu
from plainloop.contracts import Batch

PIECE = 2**14  # pixels; in floats of three colours with what is computed from them about as large as a core's cache
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

    def drawn(low: float, high: float, otherwise: float) -> Tensor:
        values = draws.uniform(batch, low=low, high=high)
        return torch.where(chosen, values, otherwise).to(image.dtype).view(-1, 1, 1, 1)

    of_colour = [saturation] if image.shape[1] == 3 else []
    factors = [drawn(max(0.0, 1 - x), 1 + x, 1.0) for x in (brightness, contrast, *of_colour)]
    factors += [drawn(-hue, hue, 0.0)] if of_colour and hue else []
    if is_large_on_cpu(image):
        return batch | {"image": recoloured_on_cpu(image, factors, chosen)}
    image = brightened(image, factors[0])
    return batch | {"image": recoloured(image, grey(image).mean(dim=(1, 2, 3), keepdim=True), *factors[1:])}


def brightened(image: Tensor, factor: Tensor) -> Tensor:
    return (image * factor).clamp_(0, 1)


def recoloured(
    image: Tensor, mean: Tensor, contrast: Tensor, saturation: Tensor | None = None, hue: Tensor | None = None
) -> Tensor:
    """Contrast around `mean`, the grey of the whole image, then saturation, then hue; all of them (B, 1, 1, 1)."""
    image = mean.lerp(image, contrast).clamp_(0, 1)
    if saturation is not None:
        image = grey(image).lerp(image, saturation).clamp_(0, 1)
    return image if hue is None else with_hue_turned(image, hue.flatten())


def recoloured_on_cpu(image: Tensor, factors: list[Tensor], chosen: Tensor) -> Tensor:
    """The same for the chosen images alone, in place and piece by piece, so that each stays in the CPU's cache."""
    result = image.clone()
    height, pixels = max(1, PIECE // image.shape[-1]), image.shape[-2] * image.shape[-1]
    for number in chosen.nonzero().flatten().tolist():
        brightness, contrast, *of_colour = (float(factor[number]) for factor in factors)
        pieces = result[number : number + 1].split(height, dim=2)
        mean = sum(float(grey(piece.mul_(brightness).clamp_(0, 1)).sum()) for piece in pieces) / pixels
        for piece in pieces:
            piece.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 1)
            for saturation in of_colour[:1]:
                others = grey(piece).mul_(1 - saturation)
                piece.mul_(saturation).add_(others).clamp_(0, 1)
            for turn in of_colour[1:]:
                turn_hue(piece, turn, out=piece)
    return result


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
    red, green, blue = image.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def with_hue_turned(image: Tensor, turn: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] with the hue of each image moved by `turn` (B,), in turns of the colour circle."""
    return turn_hue(image, turn.view(-1, 1, 1), out=torch.empty_like(image))


def turn_hue(image: Tensor, turn: Tensor | float, *, out: Tensor) -> Tensor:
    """Through hue in [0, 6), chroma and value: red is full in hues around 0 and 6, green around 2, blue around 4."""
    red, green, blue = image.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    slope = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    sector = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    hue = slope.div_(chroma.clamp(min=1e-12)).add_(sector).add_(6 * turn)
    hue.sub_((hue / 6).floor_(), alpha=6)
    distances = ((hue - 3).abs_().neg_().add_(3), (hue - 2).abs_(), (hue - 4).abs_())  # from the hue of each colour
    for channel, far in enumerate(distances):
        torch.addcmul(value, far.sub_(1).clamp_(0, 1), chroma, value=-1, out=out[:, channel])
    return out
