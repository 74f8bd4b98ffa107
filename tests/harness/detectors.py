"""torchvision's detectors that find objects without having learned anything."""

from __future__ import annotations

import re
from typing import Any

import torch

from plainloop.models.detection.torchvision_models import TWO_STAGES, TorchvisionDetector

HEADS = r"cls_logits|bbox_(reg|pred)|cls_score|head\.[a-z]+_head\.(conv\.\d\.0|module_list)"


def sure_detector(architecture: str, *, num_classes: int) -> TorchvisionDetector:
    """Its heads give scores and boxes of all kinds, so that few are nearly equal; at most 40 objects for an image."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"detections_per_img": 40, "score_thresh": 0.01}
    if architecture in TWO_STAGES:
        settings = {f"box_{name}": value for name, value in settings.items()} | {"rpn_post_nms_top_n_test": 50}
    settings |= {"backbone": "test_resnet", "channels": 32, "anchor_sizes": [8, 16, 32, 64, 128]}
    model = TorchvisionDetector(architecture=architecture, num_classes=num_classes, **settings)
    for name, values in model.named_parameters():
        if values.dim() > 1 and re.search(HEADS, name):
            values.data.normal_(std=0.1)
    return model.eval().requires_grad_(False)
