"""Objects follow their pixels: in every augmentation, in whole batches and in workers, each row of every entry."""

import functools

import pytest
import torch
from torch import Tensor

from plainloop.augment import draws
from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.geometry import horizontal_flip, random_rotation, vertical_flip
from plainloop.augment.multi_scale import MultiScale
from plainloop.augment.objects import rows, zoom_out
from plainloop.augment.objects.crop import RandomObjectCrop
from plainloop.augment.objects.mixup import mixup_boxes
from plainloop.augment.objects.mosaic import mosaic
from plainloop.augment.objects.zoom_out import RandomZoomOut
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.system import rng
from tests.augment.batches import CPU
from tests.augment.test_spatial import COLOURS, REFUSING, every_augmentation

NUM, OBJECTS = 6, 3  # images and objects of each; every object has a channel of its own
SIZE = (64, 80)
BLACK = (0.0,)
ROUNDING = 1.5  # pixels: what resampling may move an edge by

IN_WORKERS = {
    "RandomObjectCrop": RandomObjectCrop(),
    "RandomZoomOut": RandomZoomOut(p=0.7, fill=BLACK),
    "RandomScaleCrop": RandomScaleCrop(size=(50, 60), fill=BLACK),
    "large scale jitter": RandomScaleCrop(size=(50, 60), scale=(0.1, 2.0), fit=True, fill=BLACK),
    "RandomResizedCrop": RandomResizedCrop(size=(48, 40), scale=(0.3, 1)),
}
MOVING = IN_WORKERS | {
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
    "MultiScale": MultiScale(seed=3, multiple_of=8, every=1),
    "mosaic": functools.partial(mosaic, fill=BLACK, p=0.8, min_visible=0.2),
    "mixup_boxes": functools.partial(mixup_boxes, p=0.8),
}


def with_objects(number=NUM):
    """Black images with rectangles that are white in their channel alone, and every entry that has rows of objects."""
    generator = torch.Generator().manual_seed(number)
    low = torch.randint(2, 40, (number, OBJECTS, 2), generator=generator)
    high = low + torch.randint(6, 24, (number, OBJECTS, 2), generator=generator)
    high = high.minimum(torch.tensor([SIZE[1], SIZE[0]]))
    boxes = torch.cat([low, high], -1).float()
    boxes = torch.cat([boxes, torch.zeros(number, 1, 4)], 1)  # the last row is padding
    label = torch.arange(number * OBJECTS).view(number, OBJECTS)
    label = torch.cat([label, torch.zeros(number, 1, dtype=torch.int64)], 1)
    valid = torch.tensor([True] * OBJECTS + [False]).repeat(number, 1)
    masks = torch.stack([torch.stack([inside(box, SIZE) for box in image]) for image in boxes])
    image = torch.zeros(number, number * OBJECTS, *SIZE)
    for row in range(number):
        for i in range(OBJECTS):
            image[row, label[row, i]] = masks[row, i].float()
    polygons = boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2))
    return {
        "image": image,
        "index": torch.arange(number),
        "boxes": boxes,
        "box_label": label,
        "box_valid": valid,
        "box_crowd": label % 2 == 0,
        "box_difficult": label % 3 == 0,
        "box_area": torch.where(valid, label + 0.5, 0.0),
        "box_of_another_package": torch.stack([label, -label], -1),
        "instance_mask": masks,
        "polygons": polygons,
    }


def inside(box: Tensor, size: tuple[int, ...], margin: float = 0.0) -> Tensor:
    """(H, W) bool: pixels whose centres lie in the box, grown by `margin`."""
    x0, y0, x1, y1 = box.tolist()
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    rows_inside = (y > y0 - margin) & (y < y1 + margin)
    return rows_inside[:, None] & ((x > x0 - margin) & (x < x1 + margin))


def extent(pixels: Tensor) -> Tensor:
    y, x = pixels.any(1).nonzero()[:, 0], pixels.any(0).nonzero()[:, 0]
    return torch.stack([x[0], y[0], x[-1] + 1, y[-1] + 1]).float()


def assert_objects_fit(batch, *, white=0.5, straight=True):
    """For one image after the other: what is white in a channel is what the rows with this label say.

    `straight`: rectangles are still rectangles, so that their boxes say where they are.
    """
    kept = 0
    for row, image in enumerate(batch["image"]):
        one = {name: batch[name][row] for name in rows.names(batch)}
        real = one["box_area"] > 0  # not padding
        label, size = one["box_label"], tuple(image.shape[-2:])
        assert torch.equal(one["box_crowd"][real], label[real] % 2 == 0)
        assert torch.equal(one["box_difficult"][real], label[real] % 3 == 0)
        assert torch.equal(one["box_area"][real], label[real] + 0.5)
        assert torch.equal(one["box_of_another_package"], torch.stack([label, -label], -1))
        assert not one["box_valid"][~real].any()
        for channel in range(len(image)):
            pixels, same = image[channel] > white, real & (label == channel)
            seen, hidden = same & one["box_valid"], same & ~one["box_valid"]
            nothing = torch.zeros(size, dtype=torch.bool)
            least = sum((inside(box, size, -ROUNDING) for box in one["boxes"][seen]), nothing)
            most = sum((inside(box, size, ROUNDING) for box in one["boxes"][same]), nothing)
            assert straight is False or not (least & ~pixels).any()  # no valid box where nothing is
            assert not (pixels & ~most).any()  # nothing without a row, valid or not
            masks = one["instance_mask"][seen].any(0) | (one["instance_mask"][hidden].any(0) & pixels)
            assert (masks != pixels).sum() <= 2 * ROUNDING * sum(map(around, one["boxes"][same])) + 4
            for i in seen.nonzero().flatten().tolist():
                kept += 1
                mask, box, points = one["instance_mask"][i], one["boxes"][i], one["polygons"][i]
                edge = torch.tensor([size[1], size[0]])
                ends = torch.cat([points.amin(0).clamp(min=0), points.amax(0).minimum(edge)])
                if straight:
                    torch.testing.assert_close(extent(mask), box, rtol=0, atol=ROUNDING)
                assert (box[:2] >= ends[:2] - 1e-3).all() and (box[2:] <= ends[2:] + 1e-3).all()
    return kept


def around(box: Tensor) -> float:
    return float((box[2:] - box[:2]).sum())


def at(augment, batch, *, step=0):
    rng.seed_step(1, step, 0, CPU)
    return augment(batch, step)


def in_worker(augment, batch, *, step=0):
    """Batches of one image, each changed on its own as bytes."""
    rng.seed_all(step)
    for row in range(len(batch["image"])):
        sample = {name: tensor[row] for name, tensor in batch.items()}
        after = augment.sample(sample | {"image": (sample["image"] * 255).byte()})
        assert after["image"].dtype == torch.uint8
        yield {name: tensor[None] for name, tensor in (after | {"image": after["image"] / 255}).items()}


@pytest.mark.parametrize("name", MOVING)
def test_objects_are_where_their_pixels_are_in_batches(name):
    before = with_objects()
    batch = {key: tensor.clone() for key, tensor in before.items()}
    white = 0.05 if name == "mixup_boxes" else 0.5
    kept = [assert_objects_fit(at(MOVING[name], batch, step=step), white=white) for step in range(4)]
    assert min(kept) > NUM
    assert all(torch.equal(batch[key], before[key]) for key in before)  # what came in stays


@pytest.mark.parametrize("name", IN_WORKERS)
def test_objects_are_where_their_pixels_are_in_workers(name):
    kept = [assert_objects_fit(one) for step in range(3) for one in in_worker(MOVING[name], with_objects(), step=step)]
    assert sum(kept) > NUM * 3


def test_a_canvas_that_would_be_too_large_becomes_smaller_with_its_objects(monkeypatch):
    monkeypatch.setattr(zoom_out, "LARGEST", 120)
    after = list(in_worker(RandomZoomOut(p=1, ratio=(2, 4), fill=BLACK), with_objects()))
    assert {max(one["image"].shape[-2:]) for one in after} <= {118, 119, 120, 121}
    assert sum(map(assert_objects_fit, after)) == NUM * OBJECTS


def test_turned_objects_have_turned_masks_and_boxes_around_them():
    assert assert_objects_fit(at(random_rotation, with_objects()), straight=False) > NUM


def test_every_option_that_moves_pixels_is_tried_here():
    kinds = {param.values[1]["_target_"].rpartition(".")[2] for param in every_augmentation()}
    refusing = {kind for kind, entries in REFUSING.items() if "boxes" in entries}
    assert kinds - refusing - {*COLOURS, "FirstBatch", "random_rotation"} == {
        name for name in MOVING if " " not in name
    }


@pytest.mark.parametrize("name", ["boxes", "box_label", "box_valid", "box_crowd", "instance_mask", "polygons"])
@pytest.mark.parametrize("kind", ["horizontal_flip", "mosaic", "RandomZoomOut", "mixup_boxes"])
def test_rows_that_stay_behind_are_noticed(kind, name):
    batch = with_objects()
    after = at(MOVING[kind], batch)
    if after[name].shape == batch[name].shape:
        wrong = batch[name] if name.startswith("instance") or name in ("boxes", "polygons") else batch[name].flip(1)
    else:
        wrong = after[name].flip(1)
    white = 0.05 if kind == "mixup_boxes" else 0.5
    with pytest.raises((AssertionError, IndexError)):
        assert_objects_fit(after | {name: wrong}, white=white)


def test_an_object_stays_where_its_centre_is_inside_the_part_and_no_other():
    batch = with_objects() | {"image": torch.zeros(NUM, 1, *SIZE)}
    for name in ("instance_mask", "polygons"):
        del batch[name]
    crop = RandomObjectCrop(overlaps=(0.0,))
    for step in range(5):
        rng.seed_step(1, step, 0, CPU)
        part = crop.parts(batch, functools.partial(draws.uniform, batch))
        after = at(crop, batch, step=step)
        centre = (batch["boxes"][..., :2] + batch["boxes"][..., 2:]) / 2
        is_inside = ((centre > part[:, None, :2]) & (centre < part[:, None, 2:])).all(-1) & batch["box_valid"]
        assert is_inside.any(1).all()
        assert torch.equal(after["box_valid"], is_inside)


def test_of_an_object_that_is_cut_off_the_least_visible_share_decides():
    batch = with_objects()
    for least in (0.0, 0.4, 0.9):
        crop = RandomScaleCrop(size=SIZE, scale=(1.5, 2.0), fill=BLACK, min_visible=least)
        after = at(crop, batch)
        ends = torch.cat([after["polygons"].amin(-2), after["polygons"].amax(-2)], -1)  # not cut off
        share = area(after["boxes"]) / area(ends).clamp(min=1e-6)
        assert torch.equal(after["box_valid"], (share > 0) & (share >= least) & batch["box_valid"])


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def test_an_object_whose_mask_is_gone_is_not_valid():
    batch = with_objects()
    batch["instance_mask"][:, 1] = False
    after = at(horizontal_flip, batch)
    assert after["box_valid"].tolist() == [[True, False, True, False]] * NUM


def test_the_largest_valid_objects_stay():
    batch = {
        "image": torch.zeros(2, 1, 9, 9),
        "boxes": torch.tensor(
            [[[0.0, 0, 1, 1], [0, 0, 9, 9], [0, 0, 3, 3]], [[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]]
        ),
        "box_valid": torch.tensor([[True, False, True], [True, True, True]]),
        "box_label": torch.tensor([[0, 1, 2], [3, 4, 5]]),
    }
    assert rows.largest(batch, 2)["box_label"].tolist() == [[2, 0], [5, 4]]
    assert rows.largest(batch, 3) is batch


def test_a_mosaic_has_room_for_the_objects_of_four_or_for_as_many_as_are_said():
    all_, few = at(mosaic, with_objects()), at(functools.partial(mosaic, max_objects=5), with_objects())
    assert all_["boxes"].shape == (NUM, 4 * (OBJECTS + 1), 4) and few["instance_mask"].shape[:2] == (NUM, 5)
    expected = rows.largest(all_, 5)
    assert all(torch.equal(few[name], expected[name]) for name in all_)
