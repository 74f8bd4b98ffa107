"""A small U-Net that learns in seconds."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.models.pretrained import refuse_pretrained
from plainloop.models.tiny import conv_bn_relu


class TinySeg(nn.Module):
    """Images (B, in_chans, H, W) of any size to logits (B, num_classes, H, W).

    Four stages at a half to a sixteenth of the image; each is added to the one above it on the way back (https://arxiv.org/abs/1505.04597).

    Args:
        width: channels of the first stage; the next have 2, 4 and 4 times as many.
        pretrained: there are no such weights; true is refused.
    """

    def __init__(self, *, num_classes: int, in_chans: int = 3, width: int = 16, pretrained: bool = False) -> None:
        super().__init__()
        refuse_pretrained(pretrained, "tiny_seg")
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList()
        for before, after in zip((in_chans, *widths), widths):
            self.down.append(nn.Sequential(conv_bn_relu(before, after, stride=2), conv_bn_relu(after, after)))
        self.side = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths[:-1])
        self.up = nn.ModuleList(conv_bn_relu(below, above) for above, below in pairwise(widths))
        self.head = conv_bn_relu(width, width)
        self.logits = nn.Conv2d(width, 4 * num_classes, 1)  # of the four pixels that each place at half the size has

    @property
    def backbone(self) -> nn.Module:
        return self.down

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        features = []
        for stage in self.down:
            image = stage(image)
            features.append(image)
        x = features.pop()
        for feature, side, up in zip(reversed(features), reversed(self.side), reversed(self.up), strict=True):
            x = F.interpolate(up(x), feature.shape[-2:], mode="nearest") + side(feature)
        return F.pixel_shuffle(self.logits(self.head(x)), 2)[..., :height, :width]
