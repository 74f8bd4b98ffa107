"""Policies of many small operations, in the workers: what torchvision makes of Pillow's images."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from plainloop.augment.per_sample import PerSample
from tests.harness.photos import photograph


def tensor_of(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("policy", [v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix])
def test_a_policy_gives_the_pixels_that_it_gives_for_pillows_images(policy):
    image, transform, differ = photograph((64, 48)), policy(), 0
    for seed in range(12):
        torch.manual_seed(seed)
        expected = tensor_of(transform(image))
        torch.manual_seed(seed)
        sample = PerSample(transform=transform).sample({"image": tensor_of(image), "label": torch.tensor(1)})
        assert torch.equal(sample["image"], expected)
        assert sample["image"].dtype == torch.uint8
        differ += not torch.equal(expected, tensor_of(image))
    assert differ > 6


def test_images_of_one_channel_and_floats_are_left_to_tensors():
    transform = PerSample(transform=v2.RandAugment())
    for image in (torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)):
        changed = transform.sample({"image": image})["image"]
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
