"""What holds for every augmentation that is drawn for the global batch."""

import functools

import pytest
import torch

from plainloop.augment import colour, settings
from plainloop.augment.colour import color_jitter
from plainloop.distributed import collectives
from plainloop.system import rng
from tests.augment.batches import CPU, MIXED, ONE_BY_ONE, PIXELS, numbered
from tests.harness.tensors import NoHostReads

ALL = PIXELS | MIXED
ALIKE = PIXELS | ONE_BY_ONE  # on all ranks
SEED = 7


def at(augment, batch, *, step=3, rank=0):
    rng.seed_step(SEED, step, rank, CPU)
    return augment(batch, step)


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(collectives, "rank", lambda: rank)
    monkeypatch.setattr(collectives, "world_size", lambda: world_size)


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_shape_type_and_range_stay_and_the_batch_that_came_in_is_left_alone(augment):
    batch = numbered()
    image = at(augment, batch)["image"]
    assert image.shape == batch["image"].shape
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1 + 1e-6
    assert torch.equal(batch["image"], numbered()["image"])


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_images_change_and_seed_and_step_decide_how(augment):
    batch = numbered()
    first, again, later = (at(augment, batch, step=step)["image"] for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, batch["image"])
    assert not torch.equal(first, later)


@pytest.mark.parametrize("augment", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_ranks_sees_the_same_images(augment, world_size, monkeypatch):
    whole = numbered()
    alone = at(augment, whole)["image"]
    parts = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        rows = slice(rank * 64 // world_size, (rank + 1) * 64 // world_size)
        parts.append(at(augment, {name: tensor[rows] for name, tensor in whole.items()}, rank=rank)["image"])
    assert torch.equal(torch.cat(parts), alone)


def test_draws_of_each_rank_for_itself_would_be_noticed(monkeypatch):
    def own_draws(batch, step):
        return batch | {"image": torch.where(torch.rand(len(batch["image"]), 1, 1, 1) < 0.5, 0.0, batch["image"])}

    with pytest.raises(AssertionError):
        test_any_number_of_ranks_sees_the_same_images(own_draws, 2, monkeypatch)


@pytest.mark.parametrize("augment", PIXELS.values(), ids=PIXELS)
def test_samples_are_drawn_for_themselves(augment):
    """Sixty-four copies of one image become many different ones, or two where there is nothing but a flip."""
    one = numbered()["image"][:1].expand(64, -1, -1, -1).clone()
    image = at(augment, numbered() | {"image": one})["image"]
    assert len(image.flatten(1).unique(dim=0)) > (1 if "flip" in str(augment) else 8)


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_grey_and_oblong_images_are_taken(augment):
    batch = numbered(channels=3 if "fill" in str(augment) else 1, height=12, width=8)
    image = at(augment, batch)["image"]
    assert image.shape[:2] == batch["image"].shape[:2]


@pytest.mark.parametrize("augment", ALL.values(), ids=ALL)
def test_nothing_waits_for_the_device(augment):
    batch = numbered()
    at(augment, batch)
    with NoHostReads():
        augment(batch, 3)


ON_CPU = {"flip": PIXELS["horizontal_flip"], "vertical": PIXELS["vertical_flip"], "colour": PIXELS["color_jitter"]}
ON_CPU["half"] = functools.partial(color_jitter, hue=0.1, p=0.5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ON_CPU)
def test_large_images_are_changed_one_by_one_on_a_cpu_as_in_a_batch(name, channels, monkeypatch):
    batch = numbered(height=9, width=7, channels=channels) | {"mask": torch.arange(64 * 63).view(64, 9, 7) % 5}
    whole = at(ON_CPU[name], batch)
    monkeypatch.setattr(settings, "LARGE", 1)
    monkeypatch.setattr(colour, "PIECE", 14)  # two rows
    one_by_one = at(ON_CPU[name], batch)
    assert torch.equal(one_by_one["mask"], whole["mask"])
    # A mean that is summed in pieces; the hue of grey pixels is not stable.
    tolerance = 0.0 if "colour" not in name and name != "half" else 1e-5
    torch.testing.assert_close(one_by_one["image"], whole["image"], rtol=0, atol=tolerance)
    same = (one_by_one["image"] == batch["image"]).flatten(1).all(1)
    assert same.any() == (name != "colour") and not same.all()
    assert torch.equal(batch["image"], numbered(height=9, width=7, channels=channels)["image"])


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_ranks_sees_the_same_large_images(name, world_size, monkeypatch):
    monkeypatch.setattr(settings, "LARGE", 1)
    test_any_number_of_ranks_sees_the_same_images(ON_CPU[name], world_size, monkeypatch)
