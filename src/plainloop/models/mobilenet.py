"""MobileNets as narrow as a table asks for: timm registers none below a third of the full width."""

from __future__ import annotations

from typing import Literal

from timm.models.efficientnet import EfficientNet, decode_arch_def
from torch import nn

from plainloop.models.pretrained import refuse_pretrained

# timm's words for blocks: a depthwise 3 x 3 and a pointwise convolution (ds, with an activation after both: dsa), or
# with an expansion in front (ir); r how many, s the stride of the first, e the expansion, c the channels at full width.
BLOCKS = {
    1: ["dsa_r1_k3_s1_c64", "dsa_r2_k3_s2_c128", "dsa_r2_k3_s2_c256", "dsa_r6_k3_s2_c512", "dsa_r2_k3_s2_c1024"],
    2: [
        *("ds_r1_k3_s1_c16", "ir_r2_k3_s2_e6_c24", "ir_r3_k3_s2_e6_c32", "ir_r4_k3_s2_e6_c64", "ir_r3_k3_s1_e6_c96"),
        *("ir_r3_k3_s2_e6_c160", "ir_r1_k3_s1_e6_c320"),
    ],
}


def mobilenet(
    *,
    version: Literal[1, 2],
    width: float,
    num_classes: int,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    pretrained: bool = False,
) -> nn.Module:
    """MobileNetV1 (https://arxiv.org/abs/1704.04861) or V2 (https://arxiv.org/abs/1801.04381), built of timm's blocks.

    Args:
        width: factor of the channels, rounded down as in PaddleClas; V2 keeps the 1280 features before its classifier.
        drop_rate: dropout before the classifier.
        pretrained: there are no such weights; true is refused.
    """
    refuse_pretrained(pretrained, "mobilenet")
    if not 1 / 16 <= width <= 1:
        raise ValueError(f"model.width={width} must lie between 1/16 and 1, as 0.25")
    return EfficientNet(
        decode_arch_def([[block] for block in BLOCKS[version]]),
        num_classes=num_classes,
        num_features=1280 if version == 2 else 0,
        in_chans=in_chans,
        stem_size=32,
        round_chs_fn=lambda channels, **_: int(channels * width),
        norm_layer=nn.BatchNorm2d,
        act_layer=nn.ReLU if version == 1 else nn.ReLU6,
        drop_rate=drop_rate,
    )
