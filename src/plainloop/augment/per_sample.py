"""Makes a transform of one sample, such as torchvision's, an augmentation."""

from __future__ import annotations

from collections.abc import Callable
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
        spatial.refuse(sample, f"{transform}")
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
        spatial.refuse(sample, f"{transform}")
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
