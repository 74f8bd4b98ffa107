"""Policies of many small operations, in the workers: what torchvision makes of Pillow's images."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torchvision.transforms import v2

from plainloop.augment.per_sample import PerSample, TimmPolicy
from plainloop.system import rng
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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original-mstd0.5", "augmix-m5-w2"])
def test_a_policy_of_timm_gives_what_timm_gives(policy, channels):
    sample = {"image": torch.randint(256, (channels, 24, 24), generator=torch.manual_seed(0)).byte(), "label": 1}
    ours = TimmPolicy(policy=policy, fill=[0.2] * channels)
    make = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    theirs = make.get(policy.partition("-")[0], auto_augment_transform)(policy, {"img_mean": (51, 51, 51)})
    for seed in range(20):
        rng.seed_all(seed)
        mine = ours.sample(sample)
        rng.seed_all(seed)
        expected = theirs(Image.fromarray(sample["image"].expand(3, 24, 24).permute(1, 2, 0).numpy()))
        assert torch.equal(mine["image"], torch.from_numpy(np.array(expected)).permute(2, 0, 1)[:channels])
        assert mine["label"] == 1
    with pytest.raises(ValueError, match=r"augment: policy='hello' is no policy of timm .*; such as rand-m9"):
        TimmPolicy(policy="hello")
