"""PP-LiteSeg (https://arxiv.org/abs/2204.02681), with the encoder STDC (https://arxiv.org/abs/2104.13188) or timm's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.models.pretrained import refuse_pretrained
from plainloop.models.tiny import conv_bn_relu

STDC_LAYERS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}  # blocks of the stages at 1/8, 1/16 and 1/32


class PPLiteSeg(nn.Module):
    """Images (B, in_chans, H, W) to logits (B, num_classes, H / 8, W / 8).

    In training it gives a list: these logits, then those of an auxiliary head at 1/16 and at 1/32 of the image. As in
    PaddleSeg the three count equally: task.aux_weights=[1,1].

    Args:
        encoder_name: stdc1, stdc2, or tu-<name> for a timm model that gives features at 1/8, 1/16 and 1/32.
        decoder_channels: of the stages at 1/8, 1/16 and 1/32; the paper's PP-LiteSeg-T has stdc1 and 32, 64, 128, its
            PP-LiteSeg-B stdc2 and 64, 96, 128.
        pool_channels: of the pyramid pooling.
        pretrained: downloads timm's weights of the encoder; there are none of STDC, and true is refused there.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        encoder_name: str = "stdc1",
        in_chans: int = 3,
        decoder_channels: Sequence[int] = (64, 96, 128),
        pool_channels: int = 128,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if len(decoder_channels) != 3:
            raise ValueError(f"model.decoder_channels={list(decoder_channels)} must be three numbers of channels")
        self.encoder, channels = encoder_of(encoder_name, in_chans, pretrained)
        self.pool = PyramidPool(channels[-1], pool_channels)
        above = (decoder_channels[1], decoder_channels[2], pool_channels)
        self.fuse = nn.ModuleList(map(Fusion, channels, above, decoder_channels))
        self.heads = nn.ModuleList(head(width, num_classes) for width in decoder_channels)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        features = self.encoder(image)
        x = self.pool(features[-1])
        fused: list[Tensor] = []
        for fuse, feature in zip(reversed(self.fuse), reversed(features), strict=True):
            x = fuse(feature, x)
            fused.insert(0, x)
        if self.training:
            return [head(x) for head, x in zip(self.heads, fused, strict=True)]
        return self.heads[0](fused[0])


class PyramidPool(nn.Module):
    """Simple pyramid pooling (section 3.4): averages over the whole, 2 x 2 and 4 x 4 parts, added up."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        # At 1 x 1 BatchNorm has one value per image and channel, so that a batch of one cannot be trained on.
        self.parts = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), conv_bn_relu(in_chans, out_chans, kernel=1)) for size in (1, 2, 4)
        )
        self.out = conv_bn_relu(out_chans, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        parts = [F.interpolate(part(x), size, mode="bilinear", align_corners=False) for part in self.parts]
        return self.out(torch.stack(parts).sum(0))


class Fusion(nn.Module):
    """Unified attention fusion (section 3.3), with spatial attention: a weight per pixel for either of two inputs."""

    def __init__(self, low_chans: int, high_chans: int, out_chans: int) -> None:
        super().__init__()
        self.low = conv_bn_relu(low_chans, high_chans)
        self.attention = nn.Sequential(
            conv_bn_relu(4, 2), nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid()
        )
        self.out = conv_bn_relu(high_chans, out_chans)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = self.low(low)
        high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=False)
        means_and_maxima = [f(x, 1, keepdim=True) for x in (low, high) for f in (torch.mean, torch.amax)]
        share = self.attention(torch.cat(means_and_maxima, dim=1))
        return self.out(high * share + low * (1 - share))


def head(in_chans: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(in_chans, 64), nn.Conv2d(64, num_classes, 1, bias=False))


def encoder_of(name: str, in_chans: int, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """A module that gives features at 1/8, 1/16 and 1/32, and their channels."""
    if name in STDC_LAYERS:
        refuse_pretrained(pretrained, f"pp_liteseg with the encoder {name}")
        return STDC(in_chans, STDC_LAYERS[name]), [256, 512, 1024]
    if not name.startswith("tu-") or not timm.is_model(name[3:]):
        raise ValueError(f"model.encoder_name={name!r} must be stdc1, stdc2, or tu-<name of a timm model>")
    with torch.device("meta"):
        like_it: Any = timm.create_model(name[3:], features_only=True)
    strides = like_it.feature_info.reduction()
    if not {8, 16, 32} <= set(strides):
        raise ValueError(f"model.encoder_name={name!r} gives features at 1/{strides}, and 1/8, 1/16, 1/32 are needed")
    chosen = tuple(strides.index(stride) for stride in (8, 16, 32))
    fetches = pretrained and not torch.empty(0).is_meta  # the check builds it without values, and fetches nothing
    model: Any = timm.create_model(
        name[3:], features_only=True, pretrained=fetches, in_chans=in_chans, out_indices=chosen
    )
    return model, model.feature_info.channels()


class STDC(nn.Module):
    """Gives features of 256, 512 and 1024 channels at 1/8, 1/16 and 1/32 of the image."""

    def __init__(self, in_chans: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(in_chans, 32, stride=2), conv_bn_relu(32, 64, stride=2))
        self.stages = nn.ModuleList()
        before = 64
        for after, blocks in zip((256, 512, 1024), layers, strict=True):
            first = ShortTermDense(before, after, stride=2)
            rest = (ShortTermDense(after, after, stride=1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))
            before = after

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class ShortTermDense(nn.Module):
    """Four convolutions in a row, of a half, a quarter, an eighth and an eighth of the channels, put together."""

    def __init__(self, in_chans: int, out_chans: int, *, stride: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(in_chans, out_chans // 2, kernel=1)
        # With stride 2, a convolution for each channel halves what follows, and a mean what is passed on.
        self.halve = nn.Identity() if stride == 1 else depthwise(out_chans // 2)
        self.skip = nn.Identity() if stride == 1 else nn.AvgPool2d(3, stride=2, padding=1)
        widths = (out_chans // 2, out_chans // 4, out_chans // 8, out_chans // 8)
        self.rest = nn.ModuleList(conv_bn_relu(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        parts, x = [self.skip(x)], self.halve(x)
        for conv in self.rest:
            x = conv(x)
            parts.append(x)
        return torch.cat(parts, dim=1)


def depthwise(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
