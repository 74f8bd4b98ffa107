"""Crops, canvases and sizes are drawn as torchvision draws them, as said, and alike on all ranks and after a resume."""

import functools
import inspect

import pytest
import torch
from scipy import stats
from torchvision import tv_tensors
from torchvision.transforms import v2

from plainloop.augment import draws
from plainloop.augment.multi_scale import MultiScale
from plainloop.augment.objects.crop import RandomObjectCrop, centres_inside
from plainloop.augment.objects.mixup import LEAST, mixup_boxes
from plainloop.augment.objects.mosaic import mosaic
from plainloop.augment.objects.zoom_out import RandomZoomOut
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.distributed import collectives
from plainloop.system import rng
from tests.augment.batches import CPU
from tests.augment.test_objects import MOVING, with_objects

NUM = 1500
UNLIKELY = 1e-4  # of a p-value; the seed is fixed, so that a test passes always or never
BOXES = torch.tensor([[20.0, 30, 90, 110], [100, 10, 190, 150], [150, 120, 170, 140]])
HEIGHT, WIDTH = 160, 200


@pytest.fixture(autouse=True)
def _seeded():
    rng.seed_step(3, 0, 0, CPU)


def of_torchvision(crop):
    """(NUM, 4): parts that torchvision cuts out of the image."""
    image, canvas = tv_tensors.Image(torch.zeros(3, HEIGHT, WIDTH)), {"canvas_size": (HEIGHT, WIDTH), "format": "XYXY"}
    boxes, parts = tv_tensors.BoundingBoxes(BOXES, **canvas), []
    for _ in range(NUM):
        drawn = crop.make_params([image, boxes]) or {"left": 0, "top": 0, "width": WIDTH, "height": HEIGHT}
        left, top = drawn["left"], drawn["top"]
        parts.append([left, top, left + drawn["width"], top + drawn["height"]])
    return torch.tensor(parts, dtype=torch.float32)


def in_a_batch(crop):
    batch = {"image": torch.zeros(1, 1, 1, 1).expand(NUM, 1, HEIGHT, WIDTH), "boxes": BOXES.expand(NUM, 3, 4)}
    return crop.parts(
        batch | {"box_valid": torch.ones(NUM, 3, dtype=torch.bool)}, functools.partial(draws.uniform, batch)
    )


def what_differs(one, other):
    """The smallest p-value of no difference: kept objects, whole images, widths, heights and places of the others."""
    kept = [centres_inside(BOXES, part[:, None]).sum(1).bincount(minlength=4) for part in (one, other)]
    whole = [((part[:, 2:] - part[:, :2]) == torch.tensor([WIDTH, HEIGHT])).all(1) for part in (one, other)]
    counts = [[int(are.sum()), int((~are).sum())] for are in whole]
    parts = [part[~are] for part, are in zip((one, other), whole, strict=True)]
    sizes = [torch.cat([part[:, 2:] - part[:, :2], part[:, :2]], 1) for part in parts]
    tables = [torch.stack(kept)[:, 1:].numpy(), counts]
    found = [stats.chi2_contingency(table).pvalue for table in tables]
    return min(found + [stats.ks_2samp(*pair).pvalue for pair in zip(*(size.unbind(1) for size in sizes), strict=True)])


def test_parts_that_keep_objects_have_torchvisions_distribution():
    expected = of_torchvision(v2.RandomIoUCrop())
    assert what_differs(in_a_batch(RandomObjectCrop()), expected) > UNLIKELY
    for other in ({"overlaps": (0.0, 0.1, 1.0)}, {"scale": (0.3, 0.9)}, {"ratio": (0.8, 2.0)}):  # controls
        assert what_differs(in_a_batch(RandomObjectCrop(**other)), expected) < UNLIKELY


def test_every_part_has_the_overlap_that_was_asked_for_or_is_the_whole_image():
    part = in_a_batch(RandomObjectCrop(overlaps=(0.5,)))
    common = torch.minimum(part[:, None, 2:], BOXES[:, 2:]) - torch.maximum(part[:, None, :2], BOXES[:, :2])
    common = common.clamp(min=0).prod(-1)
    area = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (part[:, None], BOXES)]
    overlap = common / (area[0] + area[1] - common)
    whole = (part == torch.tensor([0.0, 0, WIDTH, HEIGHT])).all(1)
    assert ((overlap >= 0.5) & centres_inside(BOXES, part[:, None])).any(1)[~whole].all() and not whole.all()
    impossible = in_a_batch(RandomObjectCrop(overlaps=(0.99,), scale=(0.3, 0.4)))
    assert (impossible == torch.tensor([0.0, 0, WIDTH, HEIGHT])).all()


def test_an_image_without_objects_gets_any_part():
    batch = {"image": torch.zeros(200, 1, 40, 40), "boxes": torch.zeros(200, 1, 4)}
    after = RandomObjectCrop()(batch | {"box_valid": torch.zeros(200, 1, dtype=torch.bool)}, 0)
    assert after["image"].shape == (200, 1, 40, 40) and not after["box_valid"].any()
    empty = {"boxes": torch.zeros(0, 4), "box_valid": torch.zeros(0, dtype=torch.bool)}
    sizes = {
        tuple(RandomObjectCrop().sample(empty | {"image": torch.zeros(3, 40, 40, dtype=torch.uint8)})["image"].shape)
        for _ in range(20)
    }
    assert len(sizes) > 10


def test_canvases_have_torchvisions_distribution():
    side = 400
    zoom, image = v2.RandomZoomOut(p=1), tv_tensors.Image(torch.zeros(3, side, side))
    padding = torch.tensor([zoom.make_params([image])["padding"] for _ in range(NUM)]).float()
    canvas = padding[:, :2] + padding[:, 2:] + side
    expected = torch.cat([side / canvas, padding[:, :2] / canvas], 1)
    batch = {"image": torch.zeros(NUM, 1, 8, 8), "boxes": torch.tensor([0.0, 0, 8, 8]).expand(NUM, 1, 4)}
    boxes = RandomZoomOut(p=1)(batch | {"box_valid": torch.ones(NUM, 1, dtype=torch.bool)}, 0)["boxes"][:, 0] / 8
    found = torch.cat([boxes[:, 2:] - boxes[:, :2], boxes[:, :2]], 1)
    for one, other in zip(found.unbind(1), expected.unbind(1), strict=True):
        assert stats.ks_2samp(one, other).pvalue > UNLIKELY
    sample = {"image": torch.zeros(3, 30, 40, dtype=torch.uint8)}
    drawn = [RandomZoomOut(p=0.3).sample(sample)["image"].shape[-1] / 40 for _ in range(NUM)]
    assert stats.binomtest(sum(ratio > 1 for ratio in drawn), NUM, 0.3 * 119 / 120).pvalue > UNLIKELY
    assert stats.ks_1samp([r for r in drawn if r > 1], stats.uniform(0.99, 3).cdf).pvalue > UNLIKELY


def test_a_factor_of_large_scale_jitter_is_that_of_what_fits():
    jitter = RandomScaleCrop(size=100, scale=(0.5, 0.5), fit=True, fill=(0.0,))
    for size in ((30, 40), (400, 300), (100, 100)):
        after = jitter.sample({"image": torch.full((1, *size), 255, dtype=torch.uint8)})["image"][0] > 127
        factor = 50 / max(size)
        assert [int(after.any(1).sum()), int(after.any(0).sum())] == [round(side * factor) for side in size]
        whole = jitter({"image": torch.ones(1, 1, *size)}, 0)["image"][0, 0]
        assert float(whole.sum()) == pytest.approx(size[0] * size[1] * factor**2, rel=0.05)


def sizes(augment, steps, *, height=416, width=416):
    return [augment.size(height, width, step) for step in steps]


def test_sizes_follow_from_seed_and_step_so_that_a_resume_and_every_rank_repeat_them():
    whole = sizes(MultiScale(seed=5), range(200))
    assert sizes(MultiScale(seed=5), range(77, 200)) == whole[77:]
    assert all(len(set(whole[start : start + 10])) == 1 for start in range(0, 200, 10))
    assert whole != sizes(MultiScale(seed=6), range(200))
    assert list(inspect.signature(MultiScale.size).parameters) == ["self", "height", "width", "step"]  # no rank


def test_every_multiple_of_32_from_320_to_608_is_as_likely_as_any_other():
    found = torch.tensor(sizes(MultiScale(seed=0, every=1), range(3000)))
    values, counts = found[:, 0].unique(return_counts=True)
    assert values.tolist() == list(range(320, 609, 32)) and torch.equal(found[:, 0], found[:, 1])
    assert stats.chisquare(counts).pvalue > UNLIKELY


def test_both_sides_grow_alike_and_small_images_get_one_stride_at_least():
    assert set(sizes(MultiScale(seed=0, every=1), range(300), height=416, width=832)) == {
        (side, 2 * side) for side in range(320, 609, 32)
    }
    assert set(sizes(MultiScale(seed=0), range(50), height=8, width=8)) == {(32, 32)}


@pytest.mark.parametrize("name", [name for name in MOVING if name not in ("mosaic", "mixup_boxes")])
def test_one_two_and_three_ranks_see_the_same_objects(name, monkeypatch):
    whole = with_objects()

    def on(world_size):
        parts = []
        for rank in range(world_size):
            monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(collectives, "world_size", lambda: world_size)
            rng.seed_step(7, 3, rank, CPU)
            parts.append(MOVING[name]({key: tensor.chunk(world_size)[rank] for key, tensor in whole.items()}, 3))
        return {key: torch.cat([part[key] for part in parts]) for key in whole}

    alone = on(1)
    for world_size in (2, 3):
        several = on(world_size)
        assert all(torch.equal(several[key], alone[key]) for key in alone)


def test_blended_images_keep_the_objects_that_can_be_seen():
    batch = with_objects()
    rng.seed_step(7, 3, 0, CPU)
    after = mixup_boxes(batch, 3, alpha=0.3)
    for row in range(len(batch["image"])):
        for label, valid in zip(after["box_label"][row].tolist(), after["box_valid"][row].tolist(), strict=True):
            if valid:
                assert after["image"][row, label].max() >= LEAST - 1e-6
        hidden = set(range(18)) - set(after["box_label"][row][after["box_valid"][row]].tolist())
        assert all(after["image"][row, label].max() < LEAST for label in hidden)
    assert 3 * 6 < after["box_valid"].sum() < 2 * 3 * 6
    off = mixup_boxes(batch, 3, p=0.0)
    assert torch.equal(off["image"], batch["image"]) and off["box_valid"].sum() == 18


@pytest.mark.parametrize("augment", [mosaic, mixup_boxes])
def test_what_joins_images_ends_and_refuses_one_label(augment):
    batch = with_objects()
    assert augment(batch, 5, until=5) is batch
    with pytest.raises(ValueError, match="cannot change label as it changes the image; leave it out, or type augment="):
        augment(batch | {"label": torch.arange(6)}, 0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RandomObjectCrop(overlaps=(1.5,)), r"overlaps=\[1.5\] must be numbers from 0 to 1"),
        (lambda: RandomObjectCrop(overlaps=()), r"overlaps=\[\] must be numbers from 0 to 1"),
        (lambda: RandomObjectCrop(scale=(0.5, 2)), r"scale=\[0.5, 2\] must be two numbers in rising order, between"),
        (lambda: RandomZoomOut(ratio=(0.5, 2)), r"ratio=\[0.5, 2\] must be two numbers in rising order, at least 1"),
        (lambda: MultiScale(seed=0, every=0), "every=0 must be 1 or more"),
        (lambda: MultiScale(seed=0, multiple_of=0), "multiple_of=0 must be 1 or more"),
        (lambda: mosaic(with_objects(), 0, max_objects=0), "max_objects=0 must be 1 or more, or null for all"),
        (lambda: mosaic(with_objects(), 0, min_visible=2), "min_visible=2 must lie between 0 and 1"),
        (lambda: mixup_boxes(with_objects(), 0, alpha=0), "alpha=0 must be above 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(make, match):
    with pytest.raises(ValueError, match=f"augment: {match}"):
        make()
