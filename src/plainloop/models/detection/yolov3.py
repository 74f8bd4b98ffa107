"""YOLOv3 (https://arxiv.org/abs/1804.02767), on timm's darknet53 or another backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.contracts import Batch
from plainloop.models.detection import yolo_head
from plainloop.models.detection.backbone import timm_backbone
from plainloop.models.pretrained import refuse_pretrained

STRIDES = (8, 16, 32)  # of the three maps, in pixels
# Of COCO at 416 pixels, as the paper's section 2.3 lists them: three for each map, widths and heights.
ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
PRIOR = 0.01  # of an object in a cell, before training: without it the first steps only unlearn objects


class YOLOv3(nn.Module):
    """Images (B, in_chans, H, W) to detections; with objects, to their losses.

    Detections are a batch: boxes (B, D, 4) in pixels of the image, box_label, box_score and box_valid (B, D), the best
    first. Losses are 0-d, means over images: see `yolo_head.losses`.

    Args:
        backbone: a timm model with feature maps at 8, 16 and 32 pixels; "tiny" learns in minutes on a CPU.
        width: channels of the first stage of "tiny".
        anchors: widths and heights in pixels, three for each map, those of the finest map first.
        pretrained: downloads the backbone's ImageNet weights.
        backbone_weights: a safetensors file for the backbone, such as best.safetensors of a run that classifies.
        ignore_iou: a cell whose box overlaps an object by more does not learn that it has none. The paper has 0.5, its
            code 0.7.
        score_threshold: detections below are dropped; AP wants it low.
        nms_iou: of two boxes of one class that overlap by more, the better stays.
        max_detections: of an image; COCO counts 100.
    """

    losses = yolo_head.LOSSES

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int = 3,
        backbone: str = "darknet53",
        width: int = 16,
        anchors: Sequence[Sequence[float]] = ANCHORS,
        pretrained: bool = False,
        backbone_weights: str | None = None,
        ignore_iou: float = 0.7,
        score_threshold: float = 0.005,
        nms_iou: float = 0.45,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        for number, pair in enumerate(anchors, 1):
            if len(pair) != 2 or min(pair) <= 0:
                raise ValueError(f"model.anchors: entry {number} is {list(pair)}, and no width and height above 0")
        if len(anchors) % len(STRIDES) or not anchors:
            raise ValueError(
                f"model.anchors: {len(anchors)} of them; expected 3, 6, 9, ... widths and heights, small ones first: "
                f"as many for each of the {len(STRIDES)} maps. scripts/describe_data.py proposes some for your objects"
            )
        for key, value in (("ignore_iou", ignore_iou), ("score_threshold", score_threshold), ("nms_iou", nms_iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"model.{key}={value} must lie between 0 and 1")
        for key, value in (("max_detections", max_detections), ("width", width)):
            if value < 1:
                raise ValueError(f"model.{key}={value} must be 1 or more")
        self.anchors: Tensor
        self.ignore_iou, self.score_threshold, self.nms_iou = ignore_iou, score_threshold, nms_iou
        self.max_detections = max_detections
        if backbone == "tiny":
            refuse_pretrained(pretrained, "yolov3 with model.backbone=tiny")
            if backbone_weights is not None:
                raise ValueError("model.backbone_weights is for timm's models, and model.backbone=tiny is none of them")
            self.backbone: nn.Module = TinyBackbone(in_chans, width)
            channels: Sequence[int] = self.backbone.channels
        else:
            self.backbone, channels = timm_backbone(
                backbone, STRIDES, in_chans=in_chans, pretrained=pretrained, weights=backbone_weights
            )
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32).view(len(STRIDES), -1, 2), False)
        self.neck = Neck(channels)
        per_cell = len(anchors) // len(STRIDES) * (yolo_head.NUM_BOX + num_classes)
        lasts = [nn.Conv2d(wide, per_cell, 1) for wide in channels]
        for last in lasts:
            start_without_objects(last, yolo_head.NUM_BOX + num_classes)
        self.class_layers = tuple(f"heads.{number}.1" for number in range(len(lasts)))
        self.heads = nn.ModuleList(
            nn.Sequential(conv(wide // 2, wide, 3), last) for wide, last in zip(channels, lasts, strict=True)
        )

    def forward(self, image: Tensor, objects: Batch | None = None) -> Batch | dict[str, Tensor]:
        maps = self.maps(image)
        if objects is not None:
            return yolo_head.losses(maps, objects, anchors=self.anchors, strides=STRIDES, ignore_iou=self.ignore_iou)
        return yolo_head.detections(
            maps,
            anchors=self.anchors,
            strides=STRIDES,
            size=(image.shape[-2], image.shape[-1]),
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            max_detections=self.max_detections,
        )

    def maps(self, image: Tensor) -> list[Tensor]:
        """(B, A, h, w, 5 + num_classes) float32 each, the finest first; the image is padded to whole cells."""
        padding = (0, -image.shape[-1] % STRIDES[-1], 0, -image.shape[-2] % STRIDES[-1])
        features = self.neck(self.backbone(F.pad(image, padding) if any(padding) else image))
        outputs = [head(feature) for head, feature in zip(self.heads, features, strict=True)]
        per_map = self.anchors.shape[1]
        return [output.float().unflatten(1, (per_map, -1)).permute(0, 1, 3, 4, 2) for output in outputs]


class Neck(nn.Module):
    """From the coarsest map up: five convolutions each; the result, enlarged, joins the next finer map."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks, self.ups = nn.ModuleList(), nn.ModuleList()  # the coarsest first
        joined = 0
        for wide in reversed(channels):
            if joined:
                self.ups.append(conv(joined, joined // 2, 1))
                joined //= 2
            self.blocks.append(five_convs(wide + joined, wide // 2))
            joined = wide // 2

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, wide, h, w) -> (B, wide / 2, h, w) each, the finest first, as they come in."""
        outputs: list[Tensor] = []
        for number, (feature, block) in enumerate(zip(reversed(features), self.blocks, strict=True)):
            if number:
                above = F.interpolate(self.ups[number - 1](outputs[0]), feature.shape[-2:], mode="nearest")
                feature = torch.cat([above, feature], dim=1)
            outputs.insert(0, block(feature))
        return outputs


class TinyBackbone(nn.Module):
    """Two convolutions in each of five stages, at 2, 4, 8, 16 and 32 pixels; gives the last three."""

    def __init__(self, in_chans: int, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width, 4 * width)
        self.channels = widths[2:]
        self.stages = nn.ModuleList(
            nn.Sequential(conv(before, after, 3, stride=2), conv(after, after, 3))
            for before, after in zip((in_chans, *widths), widths)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features[2:]


def five_convs(in_chans: int, chans: int) -> nn.Sequential:
    pairs = [conv(in_chans, chans, 1)]
    for _ in range(2):
        pairs += [conv(chans, 2 * chans, 3), conv(2 * chans, chans, 1)]
    return nn.Sequential(*pairs)


def conv(in_chans: int, out_chans: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_chans, out_chans, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_chans),
        nn.LeakyReLU(0.1, inplace=True),
    )


def start_without_objects(layer: nn.Conv2d, per_anchor: int) -> None:
    """The last layer at first says everywhere that there is, with the probability 1 - PRIOR, no object."""
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.bias.view(-1, per_anchor)[:, 4] = -torch.log(torch.tensor((1 - PRIOR) / PRIOR))
