"""What a folder of class folders may look like, and what is said where it may not."""

import pytest

from plainloop.data.image_folder import ImageFolder
from plainloop.data.loading.listing import list_splits
from plainloop.errors import BadData


def facts(root, **settings):
    return ImageFolder.facts(root=str(root), **settings)


def test_facts_come_from_the_listing_and_decode_nothing(tmp_path):
    for folder, number in {"train/dog": 3, "train/cat": 2, "val/cat": 1, "val/dog": 1}.items():
        (tmp_path / folder).mkdir(parents=True)
        for i in range(number):
            (tmp_path / folder / f"{i}.JPG").touch()
    known = facts(tmp_path, image_size=96)
    assert (known.num_train, known.num_val, known.class_names) == (5, 2, ("cat", "dog"))
    assert known.image_shape == (3, 96, 96)
    assert known.mean == (0.485, 0.456, 0.406)
    assert facts(tmp_path, mean=[0.5, 0.5, 0.5]).mean == (0.5, 0.5, 0.5)


def test_one_folder_is_split_in_the_same_proportion_for_each_class(photos):
    root = photos({"cat": 10, "dog": 5, "eel": 1})
    known = facts(root, val_fraction=0.2)
    assert (known.num_train, known.num_val) == (13, 3)
    images = ImageFolder(root=str(root), batch_size=2, val_fraction=0.2, device="cpu").images
    assert [images[split].labels.tolist().count(0) for split in ("train", "val")] == [8, 2]
    assert [images[split].labels.tolist().count(1) for split in ("train", "val")] == [4, 1]
    assert not set(images["train"].paths) & set(images["val"].paths)


def test_train_without_val_is_split(photos):
    assert facts(photos({"train/cat": 10, "train/dog": 10}), val_fraction=0.3).num_val == 6


def test_the_split_is_the_same_every_time(photos):
    root = photos({"cat": 10, "dog": 10})
    one, other = (ImageFolder(root=str(root), batch_size=2, device="cpu").images["val"].paths for _ in range(2))
    assert (one == other).all()


def test_hidden_files_and_folders_are_not_classes_or_images(photos):
    root = photos({"train/cat": 2, "train/.cache": 1, "val/cat": 1, "train/cat/.thumbs": 1})
    (root / "train/cat/._000.png").touch()
    (root / "train/cat/notes.txt").touch()
    assert (facts(root).num_train, facts(root).class_names) == (2, ("cat",))


def test_images_in_folders_of_a_class_folder_count(photos):
    listing = list_splits(
        str(photos({"train/cat/winter": 2, "train/cat/summer": 1, "val/cat": 1})), val_fraction=0.2
    ).train
    assert listing.files == {"cat": ["cat/summer/000.png", "cat/winter/000.png", "cat/winter/001.png"]}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "no images in .*: it has no class folders"),
        ({"train": 0, "val/cat": 1}, "no images in .*train: it has no class folders"),
        ({"train/cat": 0, "train/dog": 0, "val/cat": 1}, "no images in .*train: its folders cat, dog hold none"),
        ({"train/cat": 2, "train/dog": 0, "val/cat": 1, "val/dog": 1}, "class folders without images in .*train: dog"),
        ({"train/cat": 2, "val/cat": 0}, "no images in .*val"),
        ({"train/cat": 2, "val": 0}, "no images in .*val: it has no class folders"),
        ({"train/cat": 1, "train/dog": 1}, "no class of .*train has two images"),
        ({"val/cat": 2}, "has val/ but no train/"),
        (
            {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/hog": 1},
            "train and .*val have different classes; only in train/: dog; only in val/: hog",
        ),
        ({"train/cat": 1, "val/cat": 1, "test/eel": 1}, "only in train/: cat; only in test/: eel"),
    ],
)
def test_what_cannot_be_trained_on_gets_one_clear_message_and_a_way_out(photos, folders, message):
    with pytest.raises(BadData, match=message) as caught:
        facts(photos(folders))
    assert caught.value.hint


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
        facts(photos({"cat": 3}), **settings)


def test_a_batch_larger_than_the_data_is_refused(photos):
    with pytest.raises(BadData, match=r"data.batch_size=9 .* 8 training samples; type data.batch_size=8 or less"):
        next(
            ImageFolder(root=str(photos({"cat": 10})), batch_size=9, num_workers=0, device="cpu").train_batches(0, 1, 0)
        )
