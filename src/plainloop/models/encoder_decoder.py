"""Segmentation models of segmentation_models_pytorch, for images of any size and with auxiliary heads if asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.models.pretrained import IMAGENET

STRIDE = 32  # images are padded to a multiple of it: what the deepest encoders need
ARCHITECTURES = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn"),
    *("pspnet", "deeplabv3plus", "pan", "upernet", "segformer"),
)


class EncoderDecoder(nn.Module):
    """Images (B, in_chans, H, W) to logits (B, num_classes, h, w), where h and w may be smaller than the image.

    In training with auxiliary heads it gives a list: these logits, then those of each head. The weights have the
    library's names, with aux_heads.* beside them.

    Args:
        architecture: one of `ARCHITECTURES`.
        encoder_name: one of the library's, or tu-<name> for a timm model: tu-resnet18, tu-convnext_tiny.
        pretrained: downloads the encoder's ImageNet weights; the library's `encoder_weights`.
        aux_stages: stages of the encoder that get an auxiliary head in training; -1 is the deepest, -2 the one before.
        settings: arguments of the architecture in the library, such as `decoder_channels`.
    """

    def __init__(
        self,
        *,
        architecture: str,
        encoder_name: str,
        num_classes: int,
        in_chans: int = 3,
        pretrained: bool = False,
        aux_stages: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"model.architecture={architecture!r} must be one of {', '.join(ARCHITECTURES)}")
        require_encoder(encoder_name)
        fetches = pretrained and not torch.empty(0).is_meta  # the check builds it without values, and fetches nothing
        model = smp.create_model(
            architecture,
            encoder_name=encoder_name,
            encoder_weights=IMAGENET if fetches else None,
            in_channels=in_chans,
            classes=num_classes,
            **settings,
        )
        self.encoder, self.decoder = model.encoder, model.decoder
        self.segmentation_head = model.segmentation_head
        channels = self.encoder.out_channels
        if not all(-len(channels) <= stage < len(channels) and channels[stage] for stage in aux_stages):
            raise ValueError(
                f"model.aux_stages={list(aux_stages)} must be stages of the encoder, from -1 (the deepest) "
                f"to {1 - len(channels)}"
            )
        self.architecture, self.aux_stages = architecture, tuple(aux_stages)
        self.aux_heads = nn.ModuleList(fcn_head(channels[stage], num_classes) for stage in aux_stages)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        height, width = image.shape[-2:]
        if self.architecture == "pan" and min(height, width) <= 96:  # its pyramid halves them to nothing
            raise ValueError(f"pan takes images of more than 96 pixels each way, got {height} x {width}")
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        features = self.encoder(F.pad(image, padding) if any(padding) else image)
        logits = self.segmentation_head(self.decoder(features))
        outputs = [logits]
        if self.training:
            outputs += [head(features[stage]) for stage, head in zip(self.aux_stages, self.aux_heads, strict=True)]
        if any(padding):
            whole = (height + padding[3], width + padding[1])
            outputs = [
                F.interpolate(output, whole, mode="bilinear", align_corners=False)[..., :height, :width]
                for output in outputs
            ]
        return outputs if len(outputs) > 1 else outputs[0]


def require_encoder(name: str) -> None:
    """Raises ValueError for an encoder that neither the library nor timm has."""
    names = timm.list_models() if name.startswith("tu-") else smp.encoders.get_encoder_names()
    asked = name.removeprefix("tu-")
    if asked in names or (name.startswith("tu-") and timm.is_model(asked)):
        return
    near = [f"tu-{match}" * name.startswith("tu-") or match for match in difflib.get_close_matches(asked, names)]
    also = "" if name.startswith("tu-") else f"; for timm's models type model.encoder_name=tu-{name}"
    raise ValueError(f"model.encoder_name={name!r} is not known{', near it: ' * bool(near)}{', '.join(near)}{also}")


def fcn_head(in_chans: int, num_classes: int) -> nn.Sequential:
    """The auxiliary head of PSPNet (https://arxiv.org/abs/1612.01105): two convolutions, dropout between them."""
    inner = max(in_chans // 4, 16)
    return nn.Sequential(
        nn.Conv2d(in_chans, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        nn.Conv2d(inner, num_classes, 1),
    )
