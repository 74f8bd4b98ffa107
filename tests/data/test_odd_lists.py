"""Lists, encodings and names of splits that are not as they are meant."""

from pathlib import Path

import pytest

from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.voc import VocBoxes
from plainloop.errors import BadData
from tests.data.test_odd_boxes import coco, plan, two_files
from tests.harness.annotated import SCENES, as_coco, as_xml, write_images, write_xml

LINES = [f"JPEGImages/{name} Annotations/{Path(name).stem}.xml" for name in SCENES]


def paddlex(root: Path, lines: list[str] = LINES, encoding: str = "utf-8") -> Path:
    write_images(root / "JPEGImages")
    write_xml(root / "Annotations")
    (root / "train_list.txt").write_text("\n".join(lines), encoding=encoding)
    return root


def voc(root: Path, name: str, lines: list[str]) -> Path:
    write_images(root / "JPEGImages")
    write_xml(root / "Annotations")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_list_that_is_not_there_ends_the_run(split: str, tmp_path: Path) -> None:
    typed = {split: {"list": "typo.txt"}}
    there = rf"data.{split}.list=typo.txt: there is no such list in .*; it has train_list.txt"
    with pytest.raises(BadData, match=there):
        plan(paddlex(tmp_path / "a"), VocBoxes, **typed)
    write_xml(write_images(tmp_path / "b"))
    with pytest.raises(BadData, match=r"there is no such list in .*; it has none"):
        plan(tmp_path / "b", VocBoxes, **typed)
    root = voc(tmp_path / "c", "trainval", ["1", "2", "3", "4"])
    with pytest.raises(BadData, match=r"there is no such list in .*Main; it has trainval"):
        plan(root, VocBoxes, **({"train": {"list": "trainval"}} | typed))
    assert "train from trainval.txt" in plan(root, VocBoxes, train={"list": "trainval"})


def test_the_hint_names_lists_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"has no list train.txt in ImageSets/Main; it has trainval") as error:
        plan(voc(tmp_path, "trainval", ["1", "2"]), VocBoxes)
    assert error.value.hint == "choose lists, such as data.train.list=trainval"


def test_an_image_that_a_list_has_twice_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"train_list.txt lists the image JPEGImages/1.jpg 2 times"):
        plan(paddlex(tmp_path / "a", [*LINES, LINES[0]]), VocBoxes)
    with pytest.raises(BadData, match=r"train.txt lists the image JPEGImages/2.jpg 2 times"):
        plan(voc(tmp_path / "b", "train", ["1", "2", "2"]), VocBoxes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_and_coco_files_that_windows_writes_are_read(encoding: str, tmp_path: Path) -> None:
    for root, kind in ((paddlex(tmp_path / "a"), VocBoxes), (coco(tmp_path / "b", as_coco()), CocoBoxes)):
        expected = kind(root=str(root), batch_size=1).found()
        for file in (*root.glob("*.txt"), *root.glob("*.json")):
            file.write_bytes(file.read_text().replace("\n", "\r\n").encode(encoding))
        found = kind(root=str(root), batch_size=1).found()
        assert (found.class_names, found.files_hash()) == (expected.class_names, expected.files_hash())


@pytest.mark.parametrize("file", ["train_list.txt", "labels.txt", "Annotations/1.xml"])
def test_text_in_an_unknown_encoding_ends_the_run_and_names_the_line(file: str, tmp_path: Path) -> None:
    root = paddlex(tmp_path)
    (root / "labels.txt").write_text("dog\ncat\n")
    (root / file).write_bytes((root / file).read_bytes() + "\nTür".encode("cp1252"))
    line = (root / file).read_bytes().count(b"\n") + 1
    with pytest.raises(BadData, match=rf"{file} is expected in UTF-8, and its line {line} has other characters"):
        plan(root, VocBoxes)


def test_an_xml_file_in_utf_16_that_declares_utf_8_is_read(tmp_path: Path) -> None:
    data = VocBoxes(root=str(xml_as(tmp_path, "utf-16", "utf-8")), batch_size=1)
    assert data.found().class_names == ("cat", "dog", "狗")


def xml_as(root: Path, encoding: str, declared: str) -> Path:
    write_xml(write_images(root))
    text = f'<?xml version="1.0" encoding="{declared}"?>' + as_xml([("狗", (1, 2, 30, 40))])
    (root / "1.xml").write_bytes(text.encode(encoding))
    return root


@pytest.mark.parametrize("encoding", ["gbk", "gb2312", "utf-8", "utf-16"])
def test_an_xml_file_is_read_in_the_encoding_that_it_declares(encoding: str, tmp_path: Path) -> None:
    data = VocBoxes(root=str(xml_as(tmp_path, encoding, encoding)), batch_size=1)
    assert data.found().class_names == ("cat", "dog", "狗")


@pytest.mark.parametrize("declared", ["klingon", "gbk", "hex"])
def test_an_encoding_that_is_none_ends_the_run(declared: str, tmp_path: Path) -> None:
    root = xml_as(tmp_path, "utf-8", declared)
    (root / "1.xml").write_bytes((root / "1.xml").read_bytes() + b"\xff")
    with pytest.raises(BadData, match=f"1.xml says that its text is encoded as {declared}"):
        plan(root, VocBoxes)


@pytest.mark.parametrize("width", [10**12, -80])
def test_a_size_that_no_image_has_ends_the_run(width: int, tmp_path: Path) -> None:
    write_xml(write_images(tmp_path))
    (tmp_path / "1.xml").write_text(as_xml(SCENES["1.jpg"], size=(width, 60)))
    with pytest.raises(BadData, match=rf"1.xml has the size {width} x 60"):
        plan(tmp_path, VocBoxes)


def test_a_file_for_val_that_is_not_named_is_told(tmp_path: Path) -> None:
    root = two_files(tmp_path, as_coco())
    said = "val.json is not used: type data.val.annotations=val.json"
    assert said in plan(root, train={"annotations": "train.json"})
    assert said not in plan(root, train={"annotations": "train.json"}, val={"annotations": "val.json"})
