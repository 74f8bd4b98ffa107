"""Handwritten digits on photographs, both from scikit-learn: embedded images with boxes, for detection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from plainloop.contracts import Batch, Facts
from plainloop.data.boxes.example import box_batch, refuse_labels
from plainloop.data.masks.digit_scenes import DigitScenes

if TYPE_CHECKING:
    from plainloop.data.masks.scenes import Scene


@dataclass(kw_only=True, eq=False)
class DigitBoxes(DigitScenes):
    """The scenes of DigitScenes, with a box around the pixels of each digit; the background is no class.

    Args:
        instance_masks: gives instance_mask (B, N, H, W), too.
    """

    instance_masks: bool = False

    def __post_init__(self) -> None:
        refuse_labels(self.sampler, self.only_classes)
        super().__post_init__()

    def known(self) -> Facts:
        with_background = super().known()
        return replace(with_background, class_names=with_background.class_names[1:])

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return box_batch(facts, batch_size)

    def as_batch(self, made: Iterable[Scene]) -> Batch:
        import numpy as np
        import torch
        from torch.nn.utils.rnn import pad_sequence

        every = list(made)
        image = torch.from_numpy(np.stack([scene.image for scene in every])).permute(0, 3, 1, 2).contiguous()
        boxes = [torch.from_numpy(scene.boxes) for scene in every]
        label = [torch.from_numpy(scene.classes - 1) for scene in every]
        padded = {
            "boxes": pad_sequence(boxes, batch_first=True),
            "box_label": pad_sequence(label, batch_first=True),
            "box_valid": pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in boxes], batch_first=True),
        }
        if self.instance_masks:
            masks = [torch.from_numpy(scene.pixels) for scene in every]
            padded["instance_mask"] = pad_sequence(masks, batch_first=True)
        return {"image": image} | padded
