"""Batches, and every augmentation that is drawn for the global batch."""

import functools

import torch
from torchvision.transforms import v2

from plainloop.augment.colour import color_jitter, gaussian_blur
from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.erasing import cutout, gridmask, hide_and_seek, random_erasing
from plainloop.augment.geometry import horizontal_flip, pad_crop, random_rotation, vertical_flip
from plainloop.augment.mixing import cutmix, mixup, mixup_or_cutmix
from plainloop.augment.objects.crop import RandomObjectCrop
from plainloop.augment.objects.zoom_out import RandomZoomOut
from plainloop.augment.per_sample import PerSample

CPU = torch.device("cpu")

PIXELS = {
    "pad_crop": functools.partial(pad_crop, pad=2),
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
    "random_resized_crop": RandomResizedCrop(size=8),
    "random_object_crop": RandomObjectCrop(),
    "random_zoom_out": RandomZoomOut(),
    "random_rotation": random_rotation,
    "cutout": cutout,
    "random_erasing": random_erasing,
    "random_erasing_const": functools.partial(random_erasing, mode="const", fill=(0.1, 0.2, 0.3)),
    "gridmask": gridmask,
    "hide_and_seek": hide_and_seek,
    "color_jitter": functools.partial(color_jitter, hue=0.1),
    "gaussian_blur": gaussian_blur,
}
ONE_BY_ONE = {"per_sample": PerSample(transform=v2.RandomAffine(45, (0.2, 0.2)))}
MIXED = {
    "mixup": functools.partial(mixup, num_classes=4),
    "cutmix": functools.partial(cutmix, num_classes=4),
    "mixup_or_cutmix": functools.partial(mixup_or_cutmix, num_classes=4),
}


def numbered(number=64, channels=3, height=8, width=8, num_classes=4):
    """Images that differ everywhere."""
    pixels = torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(0))
    return {"image": pixels, "label": torch.arange(number) % num_classes, "index": torch.arange(number) + 1000}
