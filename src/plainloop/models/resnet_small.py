"""Residual networks for small images: He et al. 2015, section 4.2 (https://arxiv.org/abs/1512.03385), and timm's."""

from __future__ import annotations

from typing import Any

import timm
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.models.pretrained import refuse_pretrained


class ResNetSmall(nn.Module):
    """Three stages of 16, 32 and 64 channels at full, half and quarter size: images to logits (B, num_classes).

    Shortcuts have no parameters (option A of the paper): where a stage begins, every second pixel is taken and new
    channels are zeros. Made for 28 to 64 pixels.

    Args:
        depth: layers with weights, 6n + 2; the paper has 20, 32, 44, 56 and 110.
        drop_rate: dropout before the classifier; the paper has none.
        pretrained: there are no such weights; true is refused.
    """

    def __init__(
        self, *, depth: int, num_classes: int, in_chans: int = 3, drop_rate: float = 0.0, pretrained: bool = False
    ) -> None:
        super().__init__()
        refuse_pretrained(pretrained, f"resnet{depth}")
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"model.depth={depth} must be 6n + 2: 20, 32, 44, 56 or 110")
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.drop(x.mean((2, 3))))


def with_small_stem(
    *, model_name: str, num_classes: int, in_chans: int = 3, pretrained: bool = False, **arguments: Any
) -> nn.Module:
    """A ResNet of timm that does not make small images smaller before its first block, as is usual for CIFAR.

    Its first convolution is 3 x 3 with stride 1, and there is no pooling after it.

    Args:
        model_name: of timm, such as resnet18 or resnet50.
        pretrained: there are no such weights; true is refused.
        arguments: timm's for that model, such as drop_path_rate.
    """
    refuse_pretrained(pretrained, f"{model_name} with a stem for small images")
    model = timm.create_model(model_name, num_classes=num_classes, in_chans=in_chans, **arguments)
    if not isinstance(model, ResNet) or not isinstance(model.conv1, nn.Conv2d):
        raise ValueError(f"model.model_name={model_name} must be a ResNet of timm: resnet18, resnet34, resnet50, ...")
    stem = nn.Conv2d(in_chans, model.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()  # type: ignore[assignment]
    return model


class BasicBlock(nn.Module):
    def __init__(self, in_chans: int, out_chans: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.stride = stride
        self.new_chans = out_chans - in_chans

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.new_chans:
            half = self.new_chans // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_chans - half))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


def stage(in_chans: int, out_chans: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_chans, out_chans, stride=stride)
    return nn.Sequential(first, *(BasicBlock(out_chans, out_chans, stride=1) for _ in range(blocks - 1)))
