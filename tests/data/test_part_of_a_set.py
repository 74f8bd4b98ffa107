"""data.max_train_samples: a part of the training set, of each class in proportion, by every labelled source."""

import re

import pytest
import torch

from plainloop.config import compare
from plainloop.data.digits import Digits
from plainloop.data.image_folder import ImageFolder
from plainloop.data.loading.stratify import stratified_counts
from tests.harness.configs import checked

FOLDERS = {"train/cat": 12, "train/dog": 6, "train/owl": 2, "val/cat": 1, "val/dog": 1, "val/owl": 1}


@pytest.fixture(params=["digits", "image_folder"])
def part_of(request, photos):
    """The source with a part of its set: its class, arguments, and the size of the part, which is ten batches."""
    if request.param == "digits":
        return Digits, {"batch_size": 10, "device": "cpu"}, 100
    return ImageFolder, {"root": str(photos(FOLDERS)), "batch_size": 1, "image_size": 8, "num_workers": 0}, 10


def samples(source, num_batches, **settings):
    """The pixels and labels of all training samples."""
    batches = list(source(**settings).train_batches(0, num_batches, seed=0))
    images, labels = (torch.cat([batch[name] for batch in batches]) for name in ("image", "label"))
    return {image.numpy().tobytes() for image in images}, labels.bincount().tolist()


def test_facts_and_batches_hold_the_same_part_with_every_class_in_proportion(part_of):
    source, settings, size = part_of
    facts = source.facts(**settings, max_train_samples=size)
    whole = source.facts(**settings).class_counts
    pixels, counts = samples(source, 10, **settings, max_train_samples=size)
    assert facts.num_train == size and counts == list(facts.class_counts) == stratified_counts(whole, size)
    assert (pixels, counts) == samples(source, 10, **settings, max_train_samples=size)


def test_the_part_is_of_the_training_set_and_validation_stays_whole(part_of):
    source, settings, size = part_of
    pixels, _ = samples(source, 10, **settings, max_train_samples=size)
    whole, _ = samples(source, source.facts(**settings).num_train // settings["batch_size"], **settings)
    assert len(pixels - whole) <= size // 20  # the whole set's last batch is not full, and left out
    both = [source(**settings, max_train_samples=at_most).eval_batches("val") for at_most in (size, None)]
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(*both, strict=True))


@pytest.mark.parametrize("at_most", [3, 4, 50, 89, 90, 902, 903, 5000])
def test_counts_add_up_and_no_class_is_lost_or_exceeded(at_most):
    whole = [600, 300, 3]
    counts = stratified_counts(whole, at_most)
    assert sum(counts) == min(at_most, 903)
    assert all(1 <= count <= there for count, there in zip(counts, whole))
    exact = [1 + (n - 1) * (sum(counts) - 3) / 900 for n in whole]
    assert max(abs(count - share) for count, share in zip(counts, exact)) < 1


def test_fewer_samples_than_classes_are_refused():
    with pytest.raises(
        ValueError, match=re.escape("data.max_train_samples=9 must be at least the number of classes, 10")
    ):
        Digits.facts(max_train_samples=9)


def test_a_run_of_earlier_code_without_the_key_is_the_same_run():
    now = checked()
    before = {**now, "data": {key: value for key, value in now["data"].items() if key != "max_train_samples"}}
    assert compare.differences(before, now) == []
    fewer = checked("data.max_train_samples=700")
    assert {pair.key for pair in compare.differences(before, fewer)} >= {"data.max_train_samples", "facts.num_train"}
