"""What a folder of class folders may look like, and what is said where it may not."""

import os
import re
import subprocess
import time

import pytest

from plainloop.data.image_folder import ImageFolder
from plainloop.errors import BadData


def facts(root, **settings):
    return ImageFolder.facts(root=str(root), **settings)


def test_facts_come_from_the_listing_and_decode_nothing(tmp_path):
    for folder, number in {"train/dog": 3, "train/cat": 2, "val/cat": 1, "val/dog": 1}.items():
        (tmp_path / folder).mkdir(parents=True)
        for i in range(number):
            (tmp_path / folder / f"{i}.JPG").write_bytes(b"no image")
    known = facts(tmp_path, image_size=96)
    assert (known.num_train, known.num_val, known.class_names) == (5, 2, ("cat", "dog"))
    assert known.class_counts == (2, 3)
    assert known.image_shape == (3, 96, 96)
    assert known.mean == (0.485, 0.456, 0.406)
    assert facts(tmp_path, mean=[0.5, 0.5, 0.5]).mean == (0.5, 0.5, 0.5)


def test_one_folder_is_split_in_the_same_proportion_for_each_class(photos):
    root = photos({"cat": 10, "dog": 5, "eel": 1})
    known = facts(root, val_fraction=0.2)
    assert (known.num_train, known.num_val, known.class_counts) == (13, 3, (8, 4, 1))
    one, other = (ImageFolder(root=str(root), batch_size=2, val_fraction=0.2).images for _ in range(2))
    assert [one[split].labels.tolist().count(0) for split in ("train", "val")] == [8, 2]
    assert [one[split].labels.tolist().count(1) for split in ("train", "val")] == [4, 1]
    assert not set(one["train"].paths) & set(one["val"].paths)
    assert (one["val"].paths == other["val"].paths).all()


def test_train_without_val_is_split(photos):
    assert facts(photos({"train/cat": 10, "train/dog": 10}), val_fraction=0.3).num_val == 6


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "TEST"),
        ("training", "validation", "testing"),
        ("train_set", "valid", "test_set"),
        ("train2017", "dev", "test1"),
        ("TRAIN", "eval", "Test"),
    ],
)
def test_known_spellings_of_the_split_folders_are_those_splits(photos, train, val, test):
    folders = {f"{train}/cat": 3, f"{train}/dog": 3, f"{val}/cat": 1, f"{val}/dog": 1, f"{test}/cat": 1}
    root = photos(folders | {f"{test}/dog": 1})
    known = facts(root)
    assert (known.num_train, known.num_val, known.class_names) == (6, 2, ("cat", "dog"))
    lines = ImageFolder.plan_lines(root=str(root), batch_size=2)
    assert lines == [f"train from {train}/ (6 images), val from {val}/ (2 images), test from {test}/ (2 images)"]


def test_the_plan_says_what_is_not_used(photos):
    folders = {"train/cat": 9, "train/Cat": 5, "train/cat/more": 1, "train/.x": 1, "extra/dog": 2, "__MACOSX/cat": 1}
    root = photos(folders)
    for name in ("train/cat/a.gif", "train/cat/b.GIF", "train/Cat/labels.txt", "train/Cat/README", "train/cat/._1.png"):
        (root / name).write_bytes(b"x")
    (root / "train/stray.png").write_bytes(b"x")
    (root / "test").mkdir()
    (root / "test/1.png").write_bytes(b"x")
    assert facts(root).class_counts == (4, 8)
    assert ImageFolder.plan_lines(root=str(root), batch_size=2) == [
        "train from train/ (15 images), val takes 0.2 of each class of train",
        "not used: __MACOSX/, extra/, test/",
        "skipped files: 2 .gif, 1 .txt, 1 without extension",
        "skipped images that lie in no class folder: 1",
        "images in folders inside class folders are used too: cat/more",
        "different classes with almost the same name: Cat and cat",
    ]


def test_a_folder_that_changes_is_listed_anew(photos):
    root = photos({"cat": 5, "dog": 5})
    before = facts(root)
    assert facts(root) == before
    (root / "dog/004.png").rename(root / "dog/005.png")
    renamed = facts(root)
    assert renamed.num_train == before.num_train
    assert renamed.files_hash != before.files_hash
    (root / "dog/005.png").unlink()
    assert facts(root).class_counts == (4, 3)


def test_split_words_are_classes_where_their_images_lie_beside_those_of_other_classes(photos):
    assert facts(photos({"bus": 3, "car": 3, "train": 3})).class_names == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("folders", "message", "hint"),
    [
        ({}, "no images in class folders in .*: it has no class folders", "make one folder for each class"),
        ({"train": 5, "val": 2}, "in .*train: it has no class folders, and 5 images lie directly in it", "make one"),
        ({"train/cat": 0, "train/dog": 0, "val/cat": 1}, "in .*train: its folders cat, dog hold none", "make one"),
        ({"train/cat": 2, "train/dog": 0}, "class folders without images in .*train: dog", "move them out"),
        ({"train/cat": 2, "val/cat": 0}, "no images in .*val", "make one"),
        ({"train/cat": 1, "train/dog": 1}, "no class of .*train has two images", "some of each class into .*/val"),
        ({"val/cat": 2}, "has val but no train/", "put the training classes into .*/train"),
        ({"cat": 2, "dog": 2, "test/cat": 1}, "has test but no train/, beside the folders cat, dog", "put the"),
        ({"train/a": 2, "val/a": 1, "validation/a": 1}, "several folders for val: val, validation", "keep one of them"),
        ({"images/bag": 2, "images/coat": 2}, "images are in the folders images/bag, images/coat", "root=.*/images;"),
        ({"a/b/bag": 2, "a/b/coat": 2}, "the images are in the folders a/b/bag, a/b/coat", "root=.*/a/b;"),
        ({"all/train/bag": 2, "all/val/bag": 2}, "the images are in the folders all/train/bag", "root=.*/all;"),
        ({"all/train/bag": 2, "all/train/coat": 2}, "the images are in the folders all/train/bag", "root=.*/all;"),
        ({"day/cat": 2, "night/cat": 2}, "day, night in .* hold no images themselves", "one of these .*/day; if"),
        ({"train/x/cat": 2, "train/x/dog": 2}, "the class folders x in .*train hold no", "move them up into .*/train;"),
        ({"images_train": 2, "images_val": 2}, "images_train, images_val .* would become classes", "name them train,"),
        ({"images": 3}, "has only one class folder, images/ with 3 images", "make one folder for each class"),
        (
            {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/hog": 1},
            "train and .*val have different classes; only in train/: dog; only in val/: hog",
            "make the class folders of train/ and val/ the same",
        ),
        ({"train/cat": 1, "train/b": 1, "val/Cat": 1, "val/b": 1}, "have different classes", "cat and Cat; rename one"),
        ({"train/cat": 1, "val/cat": 1, "test/eel": 1}, "only in train/: cat; only in test/: eel", "or move test/ out"),
    ],
)
def test_what_cannot_be_trained_on_gets_one_clear_message_and_a_way_out(photos, folders, message, hint):
    with pytest.raises(BadData, match=message) as caught:
        facts(photos(folders))
    assert re.search(hint, caught.value.hint)


def test_empty_files_are_named(photos):
    root = photos({"cat": 3, "dog": 3})
    (root / "dog/001.png").write_bytes(b"")
    with pytest.raises(BadData, match=r"1 image files are empty \(0 bytes\): .*dog/001.png") as caught:
        facts(root)
    subprocess.run(re.search(r"find .* -delete", caught.value.hint)[0], shell=True, check=True)
    assert facts(root).class_counts == (2, 1)


def test_a_pipe_is_no_empty_file_which_the_hint_would_not_delete(photos):
    root = photos({"cat": 3, "dog": 3})
    os.mkfifo(root / "dog/pipe.png")
    assert facts(root).class_counts == (2, 3)  # decoding says what is wrong with it


def test_empty_files_are_left_to_a_run_that_skips_bad_images(photos):
    root = photos({"cat": 3, "dog": 3})
    (root / "dog/001.png").write_bytes(b"")
    assert facts(root, on_bad_image="skip").class_counts == (2, 2)


def test_a_root_that_is_missing_or_a_file_is_named(tmp_path):
    with pytest.raises(BadData, match=f"data.root={tmp_path}/no does not exist"):
        facts(tmp_path / "no")
    (tmp_path / "file").touch()
    with pytest.raises(BadData, match="is a file"):
        facts(tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 1.0}, "data.val_fraction=1.0 must lie between 0 and 1"),
        ({"crop_fraction": 1.5}, "data.crop_fraction=1.5 must be above 0 and at most 1"),
        ({"image_size": 0}, "data.image_size=0 must be at least 1"),
        ({"timeout": 0}, "data.timeout=0 must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(photos, settings, message):
    with pytest.raises(ValueError, match=message):
        facts(photos({"cat": 3, "dog": 3}), **settings)


def test_ten_thousand_classes_are_listed_and_split_in_seconds(tmp_path):
    for label in range(10_000):
        folder = tmp_path / f"{label:05}"
        folder.mkdir()
        for name in ("0.png", "1.png"):
            (folder / name).write_bytes(b"no image")
    began = time.process_time()
    known = facts(tmp_path)
    images = ImageFolder(root=str(tmp_path), batch_size=2).images
    lines = ImageFolder.plan_lines(root=str(tmp_path), batch_size=2)
    assert time.process_time() - began < 3  # CPU; it takes 0.8 on a machine with nothing else to do
    assert (known.num_train, known.num_val, known.num_classes) == (10_000, 10_000, 10_000)
    assert [len(images[split]) for split in ("train", "val")] == [10_000, 10_000]
    assert sum(map(len, lines)) < 200


def test_a_link_that_leads_nowhere_is_left_to_the_decoder(photos):
    root = photos({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    (root / "train/cat/000.png").unlink()
    (root / "train/cat/000.png").symlink_to("nowhere")
    assert facts(root).num_train == 4
    with pytest.raises(BadData, match=r"000.png cannot be decoded \(FileNotFoundError"):
        list(ImageFolder(root=str(root), batch_size=4, num_workers=0, device="cpu").train_batches(0, 1, seed=0))
