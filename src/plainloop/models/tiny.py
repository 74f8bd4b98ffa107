"""A small convnet that learns in seconds."""

from __future__ import annotations

from torch import Tensor, nn

from plainloop.models.pretrained import refuse_pretrained


class TinyNet(nn.Module):
    """Four 3x3 convolutions in two stages, each with BatchNorm: images (B, in_chans, H, W) to logits (B, num_classes).

    Takes images of any size, and any number of channels.

    Args:
        width: channels of the first stage; the second has twice as many, at half the size.
        stem_stride: 2 halves the image in the first convolution, which makes all that follows four times cheaper.
        drop_rate: dropout before the classifier.
        pretrained: there are no such weights; true is refused.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int = 3,
        width: int = 16,
        stem_stride: int = 1,
        drop_rate: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        refuse_pretrained(pretrained, "tiny")
        self.stem = conv_bn_relu(in_chans, width, stride=stem_stride)
        self.conv1 = conv_bn_relu(width, width)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)  # a single row or column still gives one
        self.conv2 = conv_bn_relu(width, 2 * width)
        self.conv3 = conv_bn_relu(2 * width, 2 * width)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.conv1(self.stem(image)))
        x = self.global_pool(self.conv3(self.conv2(x)))
        return self.fc(self.drop(x.flatten(1)))


def conv_bn_relu(in_chans: int, out_chans: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_chans, out_chans, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_chans),
        nn.ReLU(inplace=True),
    )
