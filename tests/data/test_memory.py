"""Sets in memory: indexed on the device, a pure function of position, without a wait."""

import pytest
import torch

from plainloop.data.digits import Digits
from plainloop.data.loaders import Loader, loaders
from plainloop.data.memory import InMemory
from plainloop.errors import BadData
from tests.harness.tensors import NoHostReads, equal


def numbered(num_train=53, num_val=10, *, batch_size=12, train_eval_samples=7, **order):
    """A set whose pixels and labels are the samples' numbers."""

    def part(number):
        numbers = torch.arange(number)
        image = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
        return {"image": image, "label": numbers}

    return InMemory(
        {"train": part(num_train), "val": part(num_val)},
        loaders=loaders(Loader(batch_size, 0)),
        device="cpu",
        train_eval_samples=train_eval_samples,
        **order,
    )


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 8, 11])
def test_starting_later_gives_the_same_steps(start):
    data = numbered()
    assert equal(list(data.train_batches(0, 11, seed=5))[start:], list(data.train_batches(start, 11, seed=5)))


def test_image_label_and_index_belong_together():
    data = numbered()
    for batch in [*data.train_batches(0, 9, seed=0), *data.eval_batches("val"), *data.eval_batches("train")]:
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape[1:] == (1, 4, 4)
        assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["label"])
        assert torch.equal(batch["label"], batch["index"])


def test_repeats_are_in_the_same_batch():
    for batch in numbered(repeats=3).train_batches(0, 9, seed=0):
        assert set(batch["index"].bincount()[batch["index"].unique()].tolist()) == {3}


def test_a_balanced_set_in_memory_draws_rare_classes_as_often():
    labels = torch.arange(60) // 50  # 50 of one class, 10 of the other
    images = torch.zeros(60, 1, 2, 2, dtype=torch.uint8)
    settings = {"loaders": loaders(Loader(60, 0)), "device": "cpu", "train_eval_samples": 0}
    for sampler, counts in (("class_balanced", [30, 30]), ("shuffled", [50, 10])):
        data = InMemory({"train": {"image": images, "label": labels}}, **settings, sampler=sampler)
        assert next(data.train_batches(0, 1, seed=0))["label"].bincount().tolist() == counts


def test_evaluation_gives_every_sample_once_in_order():
    batches = list(numbered(batch_size=4).eval_batches("val"))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(10))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 2]


def test_the_train_slice_is_the_same_whatever_was_trained_on():
    data = numbered()
    before = list(data.eval_batches("train"))
    list(data.train_batches(0, 6, seed=9))
    assert equal(before, list(data.eval_batches("train")))
    assert sum(len(batch["index"]) for batch in before) == 7


def test_batches_never_wait_for_the_device():
    data = numbered()
    with NoHostReads():
        assert len([*data.train_batches(0, 9, seed=0), *data.eval_batches("val"), *data.eval_batches("train")]) == 11


def test_a_read_from_the_device_is_caught():
    with NoHostReads(), pytest.raises(AssertionError, match="the host reads"):
        next(numbered().train_batches(0, 1, seed=0))["label"].sum().item()


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(BadData, match="has no test split; it has train and val"):
        next(numbered().eval_batches("test"))


def test_digits_are_split_in_the_same_proportion_for_each_class():
    data = Digits(batch_size=64, device="cpu")
    train, val = (data.memory.splits[split]["label"].bincount() for split in ("train", "val"))
    assert torch.equal(val, ((train + val) * 0.2).round().long())


def test_digits_facts_agree_with_the_data():
    data, facts = Digits(batch_size=64, device="cpu"), Digits.facts(batch_size=64, device="cpu")
    images, val_images = (data.memory.splits[split]["image"] for split in ("train", "val"))
    assert (facts.num_train, facts.num_val, facts.image_shape) == (len(images), len(val_images), images.shape[1:])
    assert facts.class_counts == tuple(data.memory.splits["train"]["label"].bincount().tolist())
    assert (images.min(), images.max()) == (0, 255)
    pixels = images.double() / 255
    assert facts.mean == (round(pixels.mean().item(), 4),)
    assert facts.std == (round(pixels.std().item(), 4),)
