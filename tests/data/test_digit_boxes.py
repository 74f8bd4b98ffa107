"""The boxes of the embedded scenes are those of their masks, and every scene is the one that has the mask."""

import re
from typing import Any

import pytest
import torch

from plainloop.data.boxes.digit_boxes import DigitBoxes
from plainloop.data.masks.digit_scenes import DigitScenes

SMALL: dict[str, Any] = {
    "num_train": 12,
    "num_val": 6,
    "batch_size": 4,
    "image_size": 64,
    "num_digits": 10,
    "device": "cpu",
}


def test_boxes_lie_around_the_pixels_of_the_masks_of_the_same_scenes() -> None:
    boxes, masks = DigitBoxes(**SMALL, instance_masks=True).read(), DigitScenes(**SMALL).read()
    for split in ("train", "val"):
        found, there = boxes[split], masks[split]
        assert torch.equal(found["image"], there["image"])
        whole = torch.zeros_like(there["mask"])
        for row in range(len(whole)):
            for i in found["box_valid"][row].nonzero()[:, 0].tolist():
                pixels = found["instance_mask"][row, i]
                y, x = pixels.nonzero().unbind(1)
                around = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert found["boxes"][row, i].tolist() == [float(end) for end in around]
                whole[row][pixels] = found["box_label"][row, i] + 1
        assert torch.equal(whole, there["mask"])
        assert found["box_valid"].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_digits": 11}, "data.num_digits=11 must be at most 10"),
        ({"image_size": 8}, "data.image_size=8 must be at least 32"),
        ({"sampler": "class_balanced"}, "an image with boxes has no single class"),
        ({"only_classes": ["1"]}, "data.only_classes is for images with one label"),
    ],
)
def test_settings_that_make_no_scenes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DigitBoxes(**SMALL | settings)
