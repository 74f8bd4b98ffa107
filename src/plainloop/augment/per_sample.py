"""Makes a transform of one sample, such as torchvision's, an augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from plainloop.augment import draws, spatial
from plainloop.contracts import IGNORE, Augment, Batch, Sample
from plainloop.system import rng

POLICIES = (v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix)  # many small operations on one image


class PerSample:
    """Applies a transform to each sample of a batch; transforms of torchvision are wrapped in it by themselves.

    Sources with workers apply it there, to uint8 images of any size. For sets in memory it runs image by image on float
    images in [0, 1], which is slow on a GPU, and all results must have the same size.

    Args:
        transform: image (C, H, W) -> image; draws from the global generators, seeded for each sample. Those of
            torchvision.transforms.v2 move masks, boxes and polygons, too; others refuse samples that have some.
    """

    def __init__(self, *, transform: Callable[[Any], Any]) -> None:
        self.transform = transform

    def __repr__(self) -> str:
        return repr(self.transform)

    def sample(self, sample: Sample) -> Sample:
        return transform_sample(self.transform, sample)

    def __call__(self, batch: Batch, step: int) -> Batch:
        samples = []
        with rng.drawing_from(0, batch["image"].device):  # restores the generators
            for seed, *row in zip(draws.seeds(batch), *batch.values(), strict=True):
                rng.seed_all(seed, batch["image"].device)
                samples.append(self.sample(dict(zip(batch, row, strict=True))))
        return {name: torch.stack([sample[name] for sample in samples]) for name in batch}


class TimmPolicy(PerSample):
    """timm's policies by the words that its recipes have, in the workers where there are any.

    Args:
        policy: rand-m9-mstd0.5-inc1 is RandAugment with two operations of strength 9 of 10, varied by 0.5, which grow
            with the strength; original-mstd0.5 is AutoAugment; augmix-m5 is AugMix (https://arxiv.org/abs/1909.13719).
        fill: per channel, in [0, 1], for what comes in from outside.
    """

    def __init__(self, *, policy: str = "rand-m9-mstd0.5-inc1", fill: Sequence[float] = (0.5,)) -> None:
        # Here, because timm imports wandb where that is installed: a second, and folders for its temporary files.
        from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

        colour = tuple(round(255 * value) for value in (fill if len(fill) == 3 else fill[:1]))
        make = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
        named = make.get(policy.partition("-")[0], auto_augment_transform)
        try:
            made = named(policy, {"translate_const": 100, "img_mean": colour * (3 // len(colour))})
        except (AssertionError, ValueError, KeyError) as error:
            raise ValueError(
                f"augment: policy={policy!r} is no policy of timm ({error}); such as rand-m9-mstd0.5-inc1"
            ) from error
        super().__init__(transform=OnPillow(policy, made))


@dataclass(frozen=True)
class OnPillow:
    """A transform of Pillow's images, for tensors (C, H, W) in one or three channels: uint8, or float in [0, 1]."""

    name: str
    transform: Callable[[Any], Any]

    def __repr__(self) -> str:
        return f"TimmPolicy({self.name})"

    def __call__(self, image: Tensor) -> Tensor:
        is_float, size = image.is_floating_point(), tuple(image.shape)
        if size[0] not in (1, 3):
            raise ValueError(f"augment: timm's policies take images with 1 or 3 channels, and these have {size[0]}")
        whole = (image * 255).round().byte() if is_float else image
        changed = self.transform(Image.fromarray(whole.expand(3, *size[1:]).permute(1, 2, 0).cpu().numpy()))
        result = torch.from_numpy(np.array(changed)).permute(2, 0, 1)[: size[0]].to(image.device)
        return result.to(image.dtype) / 255 if is_float else result


def transform_image(transform: Callable[[Any], Any], image: Tensor) -> Tensor:
    """The image transformed; as Pillow's where that takes half the time of a tensor."""
    if not isinstance(transform, POLICIES) or image.dtype != torch.uint8 or len(image) != 3:
        return transform(image)
    changed = transform(Image.fromarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def transform_sample(transform: Callable[[Any], Any], sample: Sample) -> Sample:
    """The sample with its image transformed, and with what belongs to places in it moved by torchvision's v2.

    Whatever is filled in at the edges, masks get IGNORE there.
    """
    if not any(name in sample for name in spatial.SPATIAL):
        return sample | {"image": transform_image(transform, sample["image"])}
    if not isinstance(transform, v2.Transform):
        spatial.refuse(sample, getattr(transform, "__name__", type(transform).__name__))
    if "RandomIoUCrop" in f"{transform}":  # it needs whole boxes, and here a box goes through as its corners
        raise ValueError(f"augment: {transform} cannot change boxes here; leave it out, or type augment=ssd")
    canvas = {"canvas_size": tuple(sample["image"].shape[-2:]), "clamping_mode": None, "format": "XYXY"}
    typed: dict[str, Any] = {"image": tv_tensors.Image(sample["image"])}
    if "mask" in sample:
        typed["mask"] = tv_tensors.Mask(sample["mask"] - IGNORE)
    if "instance_mask" in sample:
        typed["instance_mask"] = tv_tensors.Mask(sample["instance_mask"].byte())
    outlines = {name: sample[name] for name in spatial.OUTLINES if name in sample}
    # A point goes through as a box without area: torchvision's key points are centres of pixels in some transforms.
    corners = {n: spatial.points_of(x[None], lambda points: points)[0] for n, x in outlines.items()}
    if corners:
        ends = torch.cat([places.flatten(0, 1) for places in corners.values()]).repeat(1, 2)
        typed["boxes"] = tv_tensors.BoundingBoxes(ends, **canvas)
    try:
        changed = transform(typed)
    except TypeError:  # those which cannot do it
        spatial.refuse(sample, getattr(transform, "__name__", type(transform).__name__))
        raise
    changed = {name: value.as_subclass(Tensor) for name, value in changed.items()}
    result = sample | {"image": changed["image"]}
    if "mask" in sample:
        result["mask"] = (changed["mask"] + IGNORE).clamp(max=IGNORE)
    if "instance_mask" in sample:
        result["instance_mask"] = (changed["instance_mask"] == 1).to(sample["instance_mask"].dtype)
    if corners:
        places = (changed["boxes"][:, :2] + changed["boxes"][:, 2:]) / 2
        if len(places) != len(ends):
            raise ValueError(f"augment: {transform} removes boxes; leave it out: what lies outside is marked as such")
        parts = places.split([x[..., 0].numel() for x in corners.values()])
        result = spatial.with_outlines(
            result, {name: part.view(x.shape) for (name, x), part in zip(corners.items(), parts, strict=True)}
        )
    return result


def as_augmentation(function: Augment) -> Augment:
    """What torchvision makes for one image becomes an augmentation of batches; all others stay as they are."""
    is_torchvisions = type(function).__module__.startswith("torchvision.transforms")
    return PerSample(transform=function) if is_torchvisions else function  # type: ignore[arg-type]  # it takes one image
