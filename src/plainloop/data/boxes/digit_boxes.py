"""Handwritten digits on photographs, both from scikit-learn: embedded images with boxes, for detection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plainloop.contracts import Batch, Facts, Preprocessing, Split
from plainloop.data.boxes.example import box_batch, refuse_labels
from plainloop.data.masks.digit_scenes import CLASSES, require_scenes, scenes
from plainloop.data.small_set import SmallSet

if TYPE_CHECKING:
    from plainloop.data.masks.scenes import Scene


@dataclass(kw_only=True, eq=False)
class DigitBoxes(SmallSet):
    """The scenes of DigitScenes, with a box around the pixels of each digit; held on the device.

    Args:
        num_train, num_val: scenes to make.
        num_digits: the digits 0, 1, ... that occur, each a class.
        image_size: pixels, of a side.
        instance_masks: gives instance_mask (B, N, H, W), too.
    """

    num_train: int = 1600
    num_val: int = 400
    num_digits: int = 5
    image_size: int = 96
    instance_masks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_labels(self.sampler, self.only_classes)
        sizes = {"num_digits": self.num_digits, "image_size": self.image_size}
        require_scenes(num_train=self.num_train, num_val=self.num_val, **sizes)

    def known(self) -> Facts:
        mean, std = self.statistics((0.40,) * 3, (0.29,) * 3)
        names = CLASSES[1 : 1 + self.num_digits]
        return Facts(self.num_train, self.num_val, names, (3, self.image_size, self.image_size), mean, std)

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return box_batch(facts, batch_size)

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        from plainloop.data.loading.outside import as_it_is

        return Preprocessing(as_it_is, one_size=False)

    def read(self) -> Mapping[Split, Batch]:
        counts: dict[Split, int] = {"train": self.num_train, "val": self.num_val}
        return {split: self._as_batch(made) for split, made in scenes(counts, self.num_digits, self.image_size)}

    def _as_batch(self, made: Iterable[Scene]) -> Batch:
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
