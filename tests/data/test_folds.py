"""data.folds and data.only_classes: parts of a labelled set, by every source that has them."""

import re

import numpy as np
import pytest
import torch

from plainloop.config import compare
from plainloop.data.digits import Digits
from plainloop.data.image_folder import ImageFolder
from plainloop.data.loading.stratify import fold_counts, folds_of
from tests.harness.configs import checked

FOLDERS = {"cat": 12, "dog": 7, "owl": 2}
WITH_VAL = {f"train/{name}": count for name, count in FOLDERS.items()} | dict.fromkeys(
    ["val/cat", "val/dog", "val/owl"], 1
)


@pytest.fixture(params=["digits", "image_folder", "image_folder with val"])
def source_of(request, photos):
    if request.param == "digits":
        return Digits, {"batch_size": 1, "device": "cpu"}
    root = photos(FOLDERS if request.param == "image_folder" else WITH_VAL)
    return ImageFolder, {"root": str(root), "batch_size": 1, "image_size": 8, "num_workers": 0}


def pixels(source, split):
    return [image.numpy().tobytes() for batch in source.eval_batches(split) for image in batch["image"]]


@pytest.mark.parametrize("labels", [[0] * 7, [0, 1, 1, 2, 2, 2, 0, 1, 2, 2, 1, 1, 1], [2, 0, 0, 2, 2]])
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_and_their_parts_of_each_class_differ_by_one_sample_at_most(labels, folds):
    labels = np.array(labels)
    found = folds_of(labels, folds)
    counts = np.array([np.bincount(labels[found == k], minlength=3) for k in range(folds)])
    assert counts.sum() == len(labels)
    assert np.ptp(counts, axis=0).max() <= 1 and np.ptp(counts.sum(1)) <= 1
    assert counts.tolist() == [fold_counts(np.bincount(labels, minlength=3), folds=folds, fold=k) for k in range(folds)]


def test_groups_stay_together_and_classes_are_still_balanced():
    generator = np.random.default_rng(0)
    group = generator.integers(0, 60, 900)
    labels = (group + generator.integers(0, 2, 900)) % 3
    found = folds_of(labels, 5, [f"patient {number}" for number in group])
    assert all(len(set(found[group == number])) == 1 for number in range(60))
    shares = np.array([np.bincount(labels[found == k], minlength=3) for k in range(5)]) / np.bincount(labels)
    assert abs(shares - 0.2).max() < 0.04
    alone = folds_of(labels, 5)
    assert any(len(set(alone[group == number])) > 1 for number in range(60))  # without groups they are torn apart


def test_folds_are_disjoint_and_together_they_are_the_training_images(source_of):
    source, settings = source_of
    each = [source(**settings, folds=3, fold=fold, train_eval_samples=10**6) for fold in range(3)]
    val = [pixels(fold, "val") for fold in each]
    whole = sorted(image for part in val for image in part)
    for fold, part, kept in zip(range(3), val, (pixels(fold, "train") for fold in each), strict=True):
        assert sorted(part + kept) == whole
        facts = source.facts(**settings, folds=3, fold=fold)
        assert (facts.num_val, facts.num_train) == (len(part), len(kept)) and sum(facts.class_counts) == len(kept)
        labels = torch.cat([batch["label"] for batch in each[fold].eval_batches("train")])
        assert labels.bincount().tolist() == list(facts.class_counts)


@pytest.mark.parametrize("source_of", ["digits", "image_folder with val"], indirect=True)
def test_the_sets_own_validation_images_become_its_test_split(source_of):
    source, settings = source_of
    assert pixels(source(**settings, folds=3), "test") == pixels(source(**settings), "val")


def test_only_some_classes_are_numbered_anew_and_keep_their_images(source_of):
    source, settings = source_of
    names = source.facts(**settings).class_names
    first, last = names[1], names[-1]
    facts = source.facts(**settings, only_classes=[last, first])
    assert facts.class_names == (first, last)
    whole, part = source(**settings), source(**settings, only_classes=[last, first])
    numbers = {1: 0, len(names) - 1: 1}
    for splits in (("val", "train"),) if settings.get("root") else (("val",), ("train",)):
        before, after = (
            {
                (image.numpy().tobytes(), int(label))
                for split in splits  # a folder without val/ draws it anew
                for batch in data.eval_batches(split)
                for image, label in zip(batch["image"], batch["label"], strict=True)
            }
            for data in (whole, part)
        )
        assert {(image, numbers[label]) for image, label in before if label in numbers} == after
    assert (facts.num_train, facts.num_val) == tuple(len(pixels(part, split)) for split in ("train", "val"))


def test_groups_of_a_csv_column_are_in_one_fold(photos):
    root = photos({"cat": 8, "dog": 8})
    files = [f"{kind}/{number:03}.png" for kind in ("cat", "dog") for number in range(8)]
    rows = [f"{file},{file[:3]},p{int(file[4:7]) // 2}" for file in files]
    (root / "labels.csv").write_text("\n".join(["file,label,Patient", *rows]))
    settings = {"root": str(root), "batch_size": 1, "labels": "labels.csv", "folds": 4, "group_column": "patient"}
    patient = dict(row.split(",")[::2] for row in rows)
    seen = []
    for fold in range(4):
        source = ImageFolder(**settings, fold=fold)
        held_out = [path.decode() for path in source.images["val"].paths]
        assert {patient[path] for path in held_out}.isdisjoint(
            patient[path.decode()] for path in source.images["train"].paths
        )
        assert len(held_out) == ImageFolder.facts(**settings, fold=fold).num_val == 4
        seen += held_out
    assert sorted(seen) == sorted(patient)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"fold": 1}, "data.fold=1 needs the number of folds beside it: data.folds=5"),
        ({"folds": 3, "fold": 3}, "data.fold=3 must be 0 to 2: data.folds=3"),
        ({"folds": 1}, "data.folds=1 must be 2 or more"),
        ({"only_classes": ["1", "cat"]}, "data.only_classes=cat: no such class; there are 0, 1, 2, 3"),
        ({"only_classes": [3]}, "must name two classes or more"),
    ],
)
def test_what_there_is_not_is_told(typed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Digits.facts(**typed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_column": "patient"}, "type data.folds=5"),
        ({"group_column": "patient", "folds": 2}, "type data.labels=<file.csv>"),
        ({"group_column": "patient", "folds": 2, "labels": "l.csv"}, "has no such column; its first row is file,label"),
        ({"folds": 6}, "data.folds=6 needs as many training images; there are 4"),
    ],
)
def test_folds_that_a_folder_cannot_have_are_told(photos, settings, message):
    root = photos({"cat": 2, "dog": 2})
    (root / "l.csv").write_text("file,label\n")
    with pytest.raises(Exception, match=re.escape(message)):
        ImageFolder.facts(root=str(root), **settings)


def test_a_run_of_earlier_code_without_the_keys_is_the_same_run():
    now, new = checked(), ("only_classes", "folds", "fold")
    before = {**now, "data": {key: value for key, value in now["data"].items() if key not in new}}
    assert compare.differences(before, now) == []
    assert {pair.key for pair in compare.differences(before, checked("data.folds=3"))} >= {
        "data.folds",
        "facts.num_val",
    }
