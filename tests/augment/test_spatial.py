"""Masks, boxes and polygons follow the pixels of their image, or the batch is refused."""

import functools
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.transforms import v2

from plainloop.augment import spatial
from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.geometry import horizontal_flip, pad_crop, random_rotation, vertical_flip
from plainloop.augment.per_sample import PerSample, as_augmentation
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.config.build import build
from plainloop.config.durations import Clock
from plainloop.contracts import IGNORE
from plainloop.system import rng
from tests.augment.batches import CPU

CONF = Path(__file__).resolve().parents[2] / "conf/augment"
SIZE, NUMBER = 48, 32
FACTS = {"num_classes": 4, "image_shape": [3, SIZE, SIZE], "mean": [0.0] * 3}
ROUNDING = 1.5  # pixels: what resampling may move an edge by


def with_rectangles(number=NUMBER, size=SIZE):
    """Black images with one white rectangle each, and every spatial entry that says where it is."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(4, 20, (number, 2), generator=generator)
    high = low + torch.randint(8, 24, (number, 2), generator=generator)
    place = torch.arange(size)
    inside = ((place >= low[:, :, None]) & (place < high[:, :, None])).unbind(1)  # columns, rows
    mask = inside[1][:, :, None] & inside[0][:, None, :]
    box = torch.cat([low, high], 1).float()
    boxes = torch.stack([box, torch.zeros_like(box)], 1)  # the second is padding
    return {
        "image": mask[:, None].float().repeat(1, 3, 1, 1),
        "label": torch.arange(number) % 4,
        "index": torch.arange(number),
        "mask": mask.long(),
        "instance_mask": torch.stack([mask, torch.zeros_like(mask)], 1),
        "boxes": boxes,
        "box_label": torch.zeros(number, 2, dtype=torch.int64),
        "box_valid": torch.tensor([[True, False]]).repeat(number, 1),
        "polygons": boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].view(number, 2, 4, 2),
    }


def extent(pixels: Tensor) -> Tensor:
    """x0, y0, x1, y1 of what is true in (H, W)."""
    rows, columns = pixels.any(1).nonzero()[:, 0], pixels.any(0).nonzero()[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def assert_entries_fit(batch, *, drops=False):
    """Each entry says what can be seen in the image. `drops`: an object of which little is left may go."""
    for number, image in enumerate(batch["image"]):
        white, valid = image[0] > 0.5, bool(batch["box_valid"][number, 0])
        assert not batch["box_valid"][number, 1]
        if "mask" in batch:
            mask = batch["mask"][number]
            assert set(mask.unique().tolist()) <= {0, 1, IGNORE}
            assert ((mask == 1) != white)[mask != IGNORE].float().mean() < 0.04  # pixels at the edge
            assert not white[mask == IGNORE].any()
        if "instance_mask" in batch:
            assert (batch["instance_mask"][number, 0] != white).float().mean() < 0.04
            assert not batch["instance_mask"][number, 1].any()
        if white.sum() < 4:
            continue
        assert valid or drops
        if not valid:
            continue
        height, width = white.shape
        if "boxes" in batch:
            torch.testing.assert_close(batch["boxes"][number, 0], extent(white).float(), rtol=0, atol=ROUNDING)
        if "polygons" in batch:
            points = batch["polygons"][number, 0]
            ends = torch.cat([points.amin(0), points.amax(0)]).clamp(min=0).minimum(torch.tensor([width, height] * 2))
            torch.testing.assert_close(ends, extent(white).float(), rtol=0, atol=ROUNDING)


def every_augmentation():
    """Of conf/augment: (file, node)."""
    found = []
    for path in sorted(CONF.glob("*.yaml")):
        for name, node in OmegaConf.to_container(OmegaConf.load(path)).items():
            config = OmegaConf.create({"facts": FACTS, "seed": 0, "node": node})
            plain = OmegaConf.to_container(config, resolve=True)["node"]
            found.append(pytest.param(path.stem, plain, id=f"{path.stem}-{name}"))
    return found


COLOURS = ("color_jitter", "cutout", "random_erasing", "gridmask", "hide_and_seek", "gaussian_blur")  # move nothing
DROPPING = ("RandomObjectCrop", "RandomScaleCrop")
JOINING = ("mosaic", "mixup_boxes")  # objects of several images: test_objects.py
REFUSING = {"pad_crop": spatial.OUTLINES, "cutmix": ("instance_mask", *spatial.OUTLINES)} | dict.fromkeys(
    ("mixup", "mixup_or_cutmix", "AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix", "TimmPolicy"),
    spatial.SPATIAL,
)


@pytest.mark.parametrize("entry", spatial.SPATIAL)
@pytest.mark.parametrize(("file", "node"), every_augmentation())
def test_every_entry_fits_the_image_after_every_augmentation_or_is_refused(file, node, entry):
    augment = as_augmentation(build(node, Clock(1, 1)))
    kind = node["_target_"].rpartition(".")[2]
    if kind in JOINING:
        return
    if kind in COLOURS:
        augment = functools.partial(unmoved, augment)
    whole = with_rectangles()
    batch = {n: x for n, x in whole.items() if n not in spatial.SPATIAL or n == entry}
    rng.seed_step(0, 0, 0, CPU)
    if entry in REFUSING.get(kind, ()):
        with pytest.raises(
            ValueError, match=rf"augment: .* cannot change {entry} as it changes the image; leave it out"
        ):
            augment(batch, 0)
        return
    assert_entries_fit(augment(batch, 0), drops=kind in DROPPING)


def unmoved(augment, batch, step):
    """Erasing and colours leave every entry as it is; the image is put back, to be compared with them."""
    changed = augment(batch, step)
    assert all(changed[name] is batch[name] for name in batch if name != "image")
    return changed | {"image": batch["image"]}


@pytest.mark.parametrize(
    "augment",
    [
        pytest.param(horizontal_flip, id="horizontal_flip"),
        pytest.param(vertical_flip, id="vertical_flip"),
        pytest.param(functools.partial(random_rotation, degrees=90), id="random_rotation"),
        pytest.param(RandomResizedCrop(size=(40, 60), scale=(0.1, 0.5)), id="crop"),
        pytest.param(RandomScaleCrop(size=(40, 60), min_visible=0.0), id="scale_crop"),
    ],
)
def test_all_entries_at_once_move_and_the_batch_that_came_in_stays(augment):
    before = with_rectangles()
    batch = {n: x for n, x in before.items() if n != "boxes" or "rotation" not in str(augment)}
    rng.seed_step(0, 0, 0, CPU)
    after = augment(batch, 0)
    assert_entries_fit(after)
    for name in spatial.SPATIAL:
        if name in batch:
            assert not torch.equal(after[name], batch[name]) if after[name].shape == batch[name].shape else True
            assert torch.equal(batch[name], with_rectangles()[name])


def test_an_entry_that_stays_behind_is_noticed():
    batch = with_rectangles()
    rng.seed_step(0, 0, 0, CPU)
    wrong = horizontal_flip(batch, 0, p=1.0)
    for name in spatial.SPATIAL:
        kept = {n: x for n, x in wrong.items() if n not in spatial.SPATIAL} | {name: batch[name]}
        with pytest.raises(AssertionError):
            assert_entries_fit(kept)


def test_a_shift_moves_masks_and_refuses_boxes():
    batch = {n: x for n, x in with_rectangles().items() if n not in spatial.OUTLINES}
    rng.seed_step(0, 0, 0, CPU)
    after = pad_crop(batch, 0, pad=6)
    assert torch.equal(after["mask"].float(), after["image"][:, 0])
    assert torch.equal(after["instance_mask"][:, 0].float(), after["image"][:, 0])
    with pytest.raises(ValueError, match="pad_crop cannot change boxes and polygons as it changes the image"):
        pad_crop(with_rectangles(), 0, pad=6)


def test_what_a_turn_brings_in_from_outside_has_no_class():
    batch = {"image": torch.ones(8, 1, 20, 20), "mask": torch.ones(8, 20, 20, dtype=torch.int64)}
    rng.seed_step(0, 0, 0, CPU)
    after = random_rotation(batch, 0, degrees=45)
    assert set(after["mask"].unique().tolist()) == {1, IGNORE}
    assert ((after["mask"] == IGNORE) == (after["image"][:, 0] < 0.5)).float().mean() > 0.97


def test_a_box_that_is_cut_off_ends_at_the_edge_and_one_outside_is_not_valid():
    batch = {
        "image": torch.zeros(1, 1, 10, 10),
        "boxes": torch.tensor([[[1.0, 2, 9, 8], [0, 0, 2, 2]]]),
        "box_valid": torch.tensor([[True, True]]),
    }
    identity = lambda values: values[:, :, 3:, 4:]  # noqa: E731
    after = spatial.moved(batch, identity, lambda points: points - torch.tensor([4.0, 3.0]))
    assert after["boxes"][0, 0].tolist() == [0, 0, 5, 5]
    assert after["box_valid"].tolist() == [[True, False]]


V2 = {
    "RandomHorizontalFlip": v2.RandomHorizontalFlip(p=1),
    "RandomVerticalFlip": v2.RandomVerticalFlip(p=1),
    "RandomResizedCrop": v2.RandomResizedCrop((40, 56), scale=(0.2, 0.8)),
    "RandomCrop": v2.RandomCrop((64, 60), pad_if_needed=True, fill=0),
    "ScaleJitter": v2.ScaleJitter((64, 64), (0.5, 2)),
    "Compose": v2.Compose([v2.RandomHorizontalFlip(p=1), v2.ColorJitter(hue=0.1), v2.Resize((60, 50))]),
}


@pytest.mark.parametrize("transform", V2.values(), ids=V2)
def test_torchvisions_transforms_move_every_entry_of_a_sample(transform):
    rng.seed_all(0)
    batch = with_rectangles()
    for row in range(8):
        sample = {name: tensor[row] for name, tensor in batch.items()}
        after = PerSample(transform=transform).sample(sample | {"image": (sample["image"] * 255).byte()})
        after["image"] = after["image"] / 255
        assert all(type(tensor) is Tensor for tensor in after.values())
        assert after["mask"].dtype == torch.int64
        assert_entries_fit({name: tensor[None] for name, tensor in after.items()})


def test_where_torchvision_fills_in_a_mask_has_no_class():
    sample = {"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "mask": torch.ones(8, 8, dtype=torch.int64)}
    for fill in (0, 128):
        mask = PerSample(transform=v2.Pad(2, fill=fill)).sample(sample)["mask"]
        assert (mask == 1).sum() == 64
        assert (mask == IGNORE).sum() == 144 - 64


def test_transforms_of_images_alone_refuse_a_sample_with_more():
    sample = {name: tensor[0] for name, tensor in with_rectangles().items()}
    with pytest.raises(ValueError, match=re.escape("cannot change mask and instance_mask and boxes and polygons")):
        PerSample(transform=torch.flip).sample(sample)
    with pytest.raises(ValueError, match=r"SanitizeBoundingBoxes.* removes boxes; leave it out"):
        PerSample(transform=v2.SanitizeBoundingBoxes(labels_getter=None)).sample(sample)
    with pytest.raises(
        ValueError, match=r"RandomIoUCrop.* cannot change boxes here; leave it out, or type augment=ssd"
    ):
        PerSample(transform=v2.Compose([v2.RandomIoUCrop()])).sample(sample)
