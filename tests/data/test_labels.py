"""Classes from a file of labels instead of folders, and what is said about its bad rows."""

import os

import pytest
import torch

from plainloop.data.image_folder import ImageFolder
from plainloop.errors import BadData


@pytest.fixture
def root(photos):
    """images/000.png ... 009.png; 010.jpg is a folder."""
    folder = photos({"images": 10})
    (folder / "images" / "010.jpg").mkdir()
    return folder


ROWS = [(f"images/{i:03}.png", "cat" if i % 3 else "dog") for i in range(10)]


def write(root, name, rows, *, form="{},{}", first="file,label\n"):
    (root / name).write_text(first + "".join(form.format(*row) + "\n" for row in rows), encoding="utf-8")
    return name


def source(root, **settings):
    return ImageFolder(root=str(root), batch_size=2, num_workers=0, image_size=8, device="cpu", **settings)


def splits(root, **settings):
    """Split -> file -> class."""
    data = source(root, **settings)
    names = data.known().class_names
    return {
        split: {os.fsdecode(path): names[label] for path, label in zip(images.paths, images.labels)}
        for split, images in data.images.items()
    }


def test_each_image_has_the_label_of_its_row(root):
    found = splits(root, labels=write(root, "labels.csv", ROWS))
    assert found["train"] | found["val"] == dict(ROWS)
    assert sorted(found["val"].values()) == ["cat", "dog"]  # a fifth of each class, one at least


@pytest.mark.parametrize(
    ("name", "form", "first"),
    [
        ("a.csv", "{},{}", ""),
        ("a.csv", "{},{}", "\ufefffile,label\n"),
        ("a.csv", '"{}","{}"', "FILE, Label\n"),
        ("a.csv", "{};{}", "file;label\n"),
        ("a.tsv", "{}\t{}", "file\tlabel\n"),
        ("a.csv", "7,{1},{0}", "id,label,file\n"),
        ("train_list.txt", "{} {}", ""),
        ("train_list.txt", "{}\t{}", "\n"),
    ],
)
def test_every_form_of_the_file_gives_the_same_set(root, name, form, first):
    expected = splits(root, labels=write(root, "labels.csv", ROWS))
    assert splits(root, labels=write(root, name, ROWS, form=form, first=first)) == expected


def test_a_comma_in_quotes_and_a_space_in_a_path_belong_to_the_path(root):
    os.rename(root / "images/000.png", root / "images/a, b.png")
    rows = [("images/a, b.png", "dog"), *ROWS[1:]]
    for name, form in (("l.csv", '"{}",{}'), ("l.txt", "{} {}")):
        found = splits(root, labels=write(root, name, rows, form=form, first=""))
        assert found["train"] | found["val"] == dict(rows)


def test_numbers_are_classes_in_the_order_of_their_value(root):
    rows = [(file, str(i % 2 * 8 + 2)) for i, (file, _) in enumerate(ROWS)]
    assert source(root, labels=write(root, "l.txt", rows, form="{} {}", first="")).known().class_names == ("2", "10")


def test_validation_and_test_have_files_of_their_own_and_the_classes_of_training(root):
    train, val, test = ROWS[:5], ROWS[5:8], ROWS[9:]
    names = [write(root, f"{n}.csv", rows) for n, rows in (("train", train), ("val", val), ("test", test))]
    settings = {"labels": names[0], "val": {"labels": names[1]}, "test": {"labels": names[2]}}
    assert splits(root, **settings) == {"train": dict(train), "val": dict(val), "test": dict(test)}
    batches = list(source(root, **settings).eval_batches("test"))
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [1]


def test_the_plan_says_where_the_labels_come_from_and_what_they_leave_out(root):
    lines = ImageFolder.plan_lines(root=str(root), batch_size=1, labels=write(root, "labels.csv", ROWS[:8]))
    assert lines == [
        "train from labels.csv (8 images), val takes 0.2 of each class of train",
        "images in the same folders that labels.csv does not list: 2",
    ]


def test_another_label_is_another_data_set(root):
    def hashed(rows):
        return ImageFolder.facts(root=str(root), labels=write(root, "labels.csv", rows)).files_hash

    before = hashed(ROWS)
    assert hashed([(ROWS[0][0], "cat"), *ROWS[1:]]) != before
    assert hashed(ROWS[::-1]) == before


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("images/000.png,cat", "line 12: images/000.png is in line 2 of labels.csv already"),
        ("images/011.png,cat", "line 12: images/011.png is no file in"),
        ("images/010.jpg,cat", "line 12: images/010.jpg is no file in"),
        ("images/000,cat", "images/000 is no file in .*; there is 000.png"),
        ("images/000.PNG,cat", "images/000.PNG is no file in .*; there is 000.png"),
        ("nowhere/000.png,cat", "line 12: nowhere/000.png is no file in"),
        ("images/011.png,", "line 12: 'images/011.png' stands alone; expected file,label"),
        ("images/011.png", "line 12: 'images/011.png' stands alone; expected file,label"),
        (",cat", "line 12: 'cat' stands alone; expected file,label"),
    ],
)
def test_a_bad_row_is_told_with_its_line(root, row, told):
    name = write(root, "labels.csv", ROWS)
    with (root / name).open("a") as file:
        file.write(row + "\n")
    with pytest.raises(BadData, match=f"has 1 bad row: .*{told}"):
        source(root, labels=name).known()


def test_a_file_under_another_spelling_is_the_same_file(root):
    train = write(root, "train.csv", ROWS[:6])
    val = write(root, "val.csv", [(f"./{ROWS[0][0]}", ROWS[0][1]), (str(root / ROWS[5][0]), ROWS[5][1])])
    with pytest.raises(BadData, match=r"val\.csv has 2 bad rows: .* is in line 2 of train\.csv already"):
        source(root, labels=train, val={"labels": val}).known()


def test_a_list_too_short_to_validate_on_asks_for_another_list(root):
    short = write(root, "short.csv", [("images/000.png", "a"), ("images/001.png", "b")])
    with pytest.raises(BadData, match=r"no class of .*short\.csv has two images") as caught:
        source(root, labels=short).known()
    assert "data.val.labels=<file>" in caught.value.hint


def test_many_bad_rows_are_one_message_with_the_first_of_them(root):
    name = write(root, "labels.csv", [(f"{i}.png", "cat") for i in range(9)], first="id,breed\n")
    with pytest.raises(BadData) as caught:
        source(root, labels=name).known()
    first, *others = str(caught.value).split("; ")
    assert first == f"data.labels: {root}/labels.csv has 10 bad rows: line 1: id is no file in {root}"
    assert len(others) == 5 and others[-1] == "..."
    assert "only a first row that says file,label is a header" in caught.value.hint


def test_an_image_in_two_splits_and_a_class_without_training_images_are_bad_rows(root):
    train, val = write(root, "train.csv", ROWS[:6]), write(root, "val.csv", [ROWS[5], ("images/007.png", "eel")])
    with pytest.raises(
        BadData, match=r"^data\.val\.labels: .*line 2: images/005\.png is in line 7 of train\.csv already"
    ) as caught:
        source(root, labels=train, val={"labels": val}).known()
    assert "line 3: no training image has the label 'eel'; the labels are cat, dog" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"labels": "none.csv"}, "data.labels=none.csv: there is no file .*; it is looked for in data.root"),
        ({"val": {"labels": "labels.csv"}}, "data.val.labels=labels.csv is given without the labels to train on"),
        ({"labels": "empty.csv"}, "^data.labels: .*empty.csv lists no images"),
        ({"labels": "one.csv"}, "^data.labels: .*one.csv has only one label, cat"),
        ({"labels": "latin.csv"}, "data.labels: .*latin.csv is expected in UTF-8, and its line"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(root, settings, told):
    write(root, "labels.csv", ROWS)
    write(root, "empty.csv", [])
    write(root, "one.csv", [(file, "cat") for file, _ in ROWS])
    (root / "latin.csv").write_bytes("images/000.png,K\u00e4fer\n".encode("latin-1"))
    with pytest.raises(BadData, match=told):
        source(root, **settings).known()


def test_a_file_that_was_meant_from_the_working_directory_is_found_for_the_message(root, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    open("labels.csv", "w").close()
    with pytest.raises(BadData) as caught:
        source(root, labels="labels.csv").known()
    assert caught.value.hint == f"data.labels={os.getcwd()}/labels.csv"
