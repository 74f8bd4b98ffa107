"""torchvision's detectors on a timm model: Faster R-CNN, Mask R-CNN, RetinaNet, FCOS, SSD."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from plainloop.contracts import Batch
from plainloop.errors import BadConfig
from plainloop.models.detection.backbone import timm_backbone
from plainloop.models.detection.boxes import as_batch
from plainloop.models.detection.torchvision_graph import LEAST_MASK, graph_detections

ARCHITECTURES = ("faster_rcnn", "mask_rcnn", "retinanet", "fcos", "ssd")
TWO_STAGES = ("faster_rcnn", "mask_rcnn")
POOLED = 7  # cells of a side of what torchvision cuts out of the maps for a box
ANCHOR_SIZES = (32, 64, 128, 256, 512)  # pixels, one for each of the five maps: those of the papers at 800 pixels
WAITS = "torchvision's code waits for the device in each step; the check builds it, but cannot try it"
DRAWS = "it draws anchors and proposals to learn from: another number of ranks or micro-batches changes the result"
COUNTS = "its losses are means over anchors, not images: another number of ranks or micro-batches changes the result"
EXCEPTIONS = {"faster_rcnn": DRAWS, "mask_rcnn": DRAWS, "fcos": COUNTS, "ssd": COUNTS}
HEADS = ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "head")
CLASS_LAYERS = {
    "faster_rcnn": ("roi_heads.box_predictor.",),
    "mask_rcnn": ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits"),
    "ssd": ("head.classification_head.",),
}
OF_PROPOSALS = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
LOSSES = {
    "faster_rcnn": OF_PROPOSALS,
    "mask_rcnn": (*OF_PROPOSALS, "loss_mask"),
    "retinanet": ("classification", "bbox_regression"),
    "fcos": ("classification", "bbox_regression", "bbox_ctrness"),
    "ssd": ("classification", "bbox_regression"),
}
DETECTIONS = ("boxes", "box_label", "box_score", "box_valid")


class TorchvisionDetector(nn.Module):
    """Images (B, in_chans, H, W) to detections in the form of a batch; with objects, in training, to their losses.

    The images come normalized and in their final size: torchvision changes neither. Of what the loop promises, these
    models do not keep all: see `plan_lines`. A stopped run goes on exactly with them, too.

    Args:
        architecture: one of `ARCHITECTURES`.
        backbone: a timm model with feature maps at 4, 8, 16 and 32 pixels; for models of one stage from 8 on.
        channels: of each of the five maps of the feature pyramid (https://arxiv.org/abs/1612.03144) and, in proportion,
            of what follows it.
        anchor_sizes: pixels, one for each of the five maps; smaller ones for smaller images. Not for fcos and ssd.
        pretrained: downloads the backbone's ImageNet weights.
        backbone_weights: a safetensors file for the backbone, such as best.safetensors of a run that classifies.
        settings: arguments of the architecture in torchvision, such as `box_score_thresh` or `detections_per_img`.
    """

    waits_each_step = True

    def __init__(
        self,
        *,
        architecture: str,
        num_classes: int,
        in_chans: int = 3,
        backbone: str = "resnet50",
        channels: int = 256,
        anchor_sizes: Sequence[int] = ANCHOR_SIZES,
        pretrained: bool = False,
        backbone_weights: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"model.architecture={architecture!r} must be one of {', '.join(ARCHITECTURES)}")
        if len(anchor_sizes) != len(ANCHOR_SIZES) or min(anchor_sizes) <= 0:
            raise ValueError(
                f"model.anchor_sizes={list(anchor_sizes)} must be {len(ANCHOR_SIZES)} sizes above 0, one for each map"
            )
        self.architecture = architecture
        # As class 0; the others decide each class by itself.
        self.background = int(architecture in (*TWO_STAGES, "ssd"))
        if channels < 1 or (architecture == "fcos" and channels % 32):  # its normalization has 32 groups
            raise ValueError(
                f"model.channels={channels} must be {'a multiple of 32 for fcos' if channels > 0 else 'above 0'}"
            )
        of_timm: Any = {"in_chans": in_chans, "pretrained": pretrained, "weights": backbone_weights}
        body = Pyramid(backbone, channels, two_stages=architecture in TWO_STAGES, **of_timm)
        self.detector = built(architecture, body, num_classes + self.background, anchor_sizes, settings)
        self.detector.transform = AsTheyAre(in_chans)
        for name, module in self.detector.named_modules():
            if name in HEADS:
                module.register_forward_hook(lambda _module, _inputs, output: in_float32(output))

    def forward(self, image: Tensor, objects: Batch | None = None) -> Batch | dict[str, Tensor]:
        if image.is_meta:
            raise NotImplementedError("torchvision's detectors need values")
        if torch.compiler.is_exporting():
            return graph_detections(self.detector, image)
        if objects is not None:
            losses: dict[str, Tensor] = self.detector(list(image), self._targets(objects))
            return losses
        found = self.detector(list(image))
        labels = [one["labels"] - self.background for one in found]
        batch = as_batch([(one["boxes"], label, one["scores"]) for one, label in zip(found, labels, strict=True)])
        if "masks" not in found[0]:
            return batch
        masks = torch.zeros(*batch["box_valid"].shape, *image.shape[-2:], dtype=torch.bool, device=image.device)
        for row, one in enumerate(found):
            masks[row, : len(one["masks"])] = one["masks"][:, 0] >= LEAST_MASK
        return batch | {"instance_mask": masks}

    @property
    def gives(self) -> tuple[str, ...]:
        """The entries of its detections."""
        return (*DETECTIONS, *(["instance_mask"] if self.learns_from_masks else []))

    @property
    def losses(self) -> tuple[str, ...]:
        return LOSSES[self.architecture]

    @property
    def learns_from_masks(self) -> bool:
        return self.architecture == "mask_rcnn"

    @property
    def score_threshold(self) -> float:
        """The score below which detections are dropped."""
        of: Any = self.detector.roi_heads if self.architecture in TWO_STAGES else self.detector
        return float(of.score_thresh)

    @property
    def class_layers(self) -> tuple[str, ...]:
        """The layers that depend on the number of classes: they start anew on other data (init_from)."""
        places = CLASS_LAYERS.get(self.architecture, ("head.classification_head.cls_logits",))
        layers = [name for name, layer in self.detector.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        return tuple(f"detector.{name}" for name in layers if name.startswith(places))

    @property
    def backbone(self) -> nn.Module:
        """The timm model, which trainer.freeze=backbone means."""
        pyramid = self.detector.backbone
        assert isinstance(pyramid, Pyramid)
        return pyramid.body

    def plan_lines(self) -> list[str]:
        """What of the loop's promises it does not keep."""
        return [WAITS, *([EXCEPTIONS[self.architecture]] if self.architecture in EXCEPTIONS else [])]

    def _targets(self, objects: Batch) -> list[dict[str, Tensor]]:
        """In torchvision's form: one dict for each image, with its valid objects. Waits for the device.

        Raises BadConfig where masks that it learns from are missing.
        """
        if self.learns_from_masks and "instance_mask" not in objects:
            raise BadConfig(
                "model=mask_rcnn learns from masks of objects, and the batches have only boxes",
                hint="type task=instance_segmentation, which reads the masks; or model=faster_rcnn, which needs none",
            )
        targets = []
        boxes = objects["boxes"]
        valid = objects["box_valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        for row, here in enumerate(valid):
            target = {"boxes": boxes[row][here].float(), "labels": objects["box_label"][row][here] + self.background}
            if "instance_mask" in objects:
                target["masks"] = objects["instance_mask"][row][here].to(torch.uint8)
            targets.append(target)
        return targets


class AsTheyAre(GeneralizedRCNNTransform):
    """Puts images in one tensor, and leaves their size and values alone: Plainloop's data and loop have done that."""

    def __init__(self, in_chans: int) -> None:
        super().__init__(min_size=0, max_size=0, image_mean=[0.0] * in_chans, image_std=[1.0] * in_chans)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class Pyramid(nn.Module):
    """Five maps: 4 to 64 pixels for models of two stages, 8 to 128 for the others."""

    def __init__(self, backbone: str, channels: int, *, two_stages: bool, **of_timm: Any) -> None:
        super().__init__()
        strides = (4, 8, 16, 32) if two_stages else (8, 16, 32)
        self.body, of_maps = timm_backbone(backbone, strides, **of_timm)
        extra = LastLevelMaxPool() if two_stages else LastLevelP6P7(channels, channels)
        self.fpn = FeaturePyramidNetwork(of_maps, channels, extra_blocks=extra)
        self.out_channels = channels

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.fpn(OrderedDict((str(i), one) for i, one in enumerate(self.body(image))))
        return {name: one.float() for name, one in maps.items()}  # anchors get their type


def in_float32(output: Any) -> Any:
    """A head's output: autocast's numbers know places in large images only to some pixels."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: in_float32(part) for name, part in output.items()}
    return type(output)(map(in_float32, output))


def built(
    architecture: str, body: Pyramid, num_classes: int, anchor_sizes: Sequence[int], settings: dict[str, Any]
) -> nn.Module:
    """The model, after the papers: anchors of three shapes, and for RetinaNet of three sizes for each map."""
    shapes = ((0.5, 1.0, 2.0),) * len(anchor_sizes)
    if architecture in TWO_STAGES:
        anchors = AnchorGenerator(tuple((size,) for size in anchor_sizes), shapes)
        wide = body.out_channels
        heads: dict[str, Any] = {
            "box_head": faster_rcnn.TwoMLPHead(wide * POOLED**2, 4 * wide),
            "box_predictor": faster_rcnn.FastRCNNPredictor(4 * wide, num_classes),
        }
        if architecture == "faster_rcnn":
            return detection.FasterRCNN(body, rpn_anchor_generator=anchors, **heads, **settings)
        heads["mask_head"] = mask_rcnn.MaskRCNNHeads(wide, (wide,) * 4, 1)
        heads["mask_predictor"] = mask_rcnn.MaskRCNNPredictor(wide, wide, num_classes)
        return detection.MaskRCNN(body, rpn_anchor_generator=anchors, **heads, **settings)
    if architecture == "retinanet":
        sizes = tuple(tuple(int(size * 2 ** (third / 3)) for third in range(3)) for size in anchor_sizes)
        return detection.RetinaNet(body, num_classes, anchor_generator=AnchorGenerator(sizes, shapes), **settings)
    if architecture == "fcos":
        return detection.FCOS(body, num_classes, **settings)
    boxes = DefaultBoxGenerator([[2, 3]] * len(anchor_sizes))
    head = detection.ssd.SSDHead([body.out_channels] * len(anchor_sizes), boxes.num_anchors_per_location(), num_classes)
    return detection.ssd.SSD(body, boxes, (1, 1), num_classes, head=head, **settings)
