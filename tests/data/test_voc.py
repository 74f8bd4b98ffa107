"""Pascal VOC's XML files: every layout is found, the first pixel is 1, and classes have the expected order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from plainloop.contracts import Facts
from plainloop.data.boxes.voc import VOC_CLASSES, VocBoxes
from plainloop.errors import BadData
from tests.harness.annotated import SCENES, Objects, as_xml, write_images, write_xml
from tests.harness.commands import problems

OF_VAL = {f"v{name}": objects for name, objects in SCENES.items()}
BOXES = [[[5, 2.5, 20, 22.5], [0, 0, 40, 30], [20.25, 10.125, 24.25, 12.125]], [[35, 25, 40, 30]]]


def source(root: Path, **settings: Any) -> VocBoxes:
    given = {"batch_size": 2, "num_workers": 0, "image_size": 40, "device": "cpu"} | settings
    return VocBoxes(root=str(root), **given)


def facts(root: Path, **settings: Any) -> Facts:
    return VocBoxes.facts(root=str(root), **settings)


def plan(root: Path, **settings: Any) -> str:
    return "\n".join(VocBoxes.plan_lines(root=str(root), batch_size=2, **settings))


def write(images: Path, annotations: Path, scenes: Mapping[str, Objects] = SCENES) -> None:
    write_images(images, list(scenes))
    write_xml(annotations, scenes)


def write_voc(root: Path) -> Path:
    """One year in Pascal VOC's own folders, with a list of each kind."""
    write(root / "JPEGImages", root / "Annotations")
    write(root / "JPEGImages", root / "Annotations", OF_VAL)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    names = {"train": list(SCENES), "val": list(OF_VAL), "trainval": [*SCENES, *OF_VAL], "cat_train": ["none.jpg"]}
    for name, images in names.items():
        (lists / f"{name}.txt").write_text("".join(f"{image[:-4]}  {'-1' * (image[0] == '1')}\n" for image in images))
    (lists / "test.txt").write_text("000001\n")
    return root


def write_paddlex(root: Path) -> Path:
    write(root / "JPEGImages", root / "Annotations")
    write(root / "JPEGImages", root / "Annotations", OF_VAL)
    for split, scenes in (("train", SCENES), ("val", OF_VAL)):
        lines = [f"JPEGImages/{name} Annotations/{name[:-4]}.xml\n" for name in scenes]
        (root / f"{split}_list.txt").write_text("".join(lines))
    return root


def write_pairs(root: Path, images: str, annotations: str) -> Path:
    """LabelImg: {} in the folders is the split."""
    for split, scenes in (("train", SCENES), ("val", OF_VAL)):
        write(root / images.format(split), root / annotations.format(split), scenes)
    return root


LAYOUTS = {
    "Pascal VOC": write_voc,
    "several years": lambda root: write_voc(root / "VOC2012").parent,
    "VOCdevkit": lambda root: write_voc(root / "VOCdevkit" / "VOC2007").parent.parent,
    "PaddleX": write_paddlex,
    "side by side": lambda root: write_pairs(root, "{}", "{}"),
    "split first": lambda root: write_pairs(root, "{}/images", "{}/xml"),
    "split last": lambda root: write_pairs(root, "JPEGImages/{}", "Annotations/{}"),
    "named": lambda root: write_pairs(root, "pictures/{}", "marks/{}"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_found_and_gives_the_boxes_of_its_images(name: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path)
    given = {split: {"annotations": f"marks/{split}", "images": f"pictures/{split}"} for split in ("train", "val")}
    settings: Any = given if name == "named" else {}
    found = facts(root, image_size=40, class_names=["cat", "dog"], **settings)
    assert (found.num_train, found.num_val, found.class_names, found.class_counts) == (4, 4, ("cat", "dog"), None)
    data = source(root, class_names=["cat", "dog"], **settings)
    batches = list(data.eval_batches("val"))
    assert [batch["boxes"][batch["box_valid"]].tolist() for batch in batches] == BOXES
    labels = [batch["box_label"][batch["box_valid"]].tolist() for batch in batches]
    assert labels == [[0, 1, 0], [1]]
    assert [data.name_of("val", i).rpartition("/")[2] for i in range(4)] == list(OF_VAL)


def test_the_first_pixel_is_1_and_the_last_is_inside(tmp_path: Path) -> None:
    write(tmp_path, tmp_path, {"a.jpg": [], "b.jpg": []})
    for name in "ab":
        (tmp_path / f"{name}.xml").write_text(as_xml([("cat", (0, 0, 80, 60)), ("cat", (9, 9, 1, 1))]))
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>80</xmax><ymax>60</ymax>" in (tmp_path / "a.xml").read_text()
    boxes = next(source(tmp_path, image_size=80).eval_batches("val"))["boxes"]
    assert boxes.tolist() == [[[0, 0, 80, 60], [9, 9, 10, 10]]]


def test_difficult_objects_are_marked_and_parts_of_objects_are_no_objects(tmp_path: Path) -> None:
    write(tmp_path, tmp_path, {"a.jpg": SCENES["1.jpg"], "b.jpg": []})
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    for name in "ab":
        xml = as_xml(SCENES["2.jpg"], inside=f"<unknown a='1'/><difficult>1</difficult>{part}")
        (tmp_path / f"{name}.xml").write_text(xml.replace("<difficult>1", "<difficult>0", 1))
    assert facts(tmp_path).class_names == ("cat", "dog")
    batch = next(source(tmp_path).eval_batches("val"))
    assert batch["box_difficult"].tolist() == [[False, True]]
    assert batch["boxes"].shape == (1, 2, 4)


def test_classes_are_the_twenty_or_those_of_labels_txt_or_sorted(tmp_path: Path) -> None:
    own = write_voc(tmp_path / "VOC2007")
    assert facts(own).class_names == VOC_CLASSES
    assert len(VOC_CLASSES) == 20
    assert facts(own.rename(tmp_path / "animals")).class_names == ("cat", "dog")
    paddlex = write_paddlex(tmp_path / "b")
    (paddlex / "labels.txt").write_text("dog\ncat\nbird\n")
    assert facts(paddlex).class_names == ("dog", "cat", "bird")


def test_the_usual_protocol_is_typed_as_lists(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "VOC2007").parent
    lines = plan(root, train={"list": "trainval"}, val={"list": "val"})
    assert "train from trainval.txt of VOC2007: 8 images, 8 objects" in lines
    assert "4 images in train and in val, which measures too well" in lines
    assert "not used: VOC2007/ImageSets/Main/test.txt, whose images have no annotations" in lines


def test_lists_may_have_other_names(tmp_path: Path) -> None:
    root = write_paddlex(tmp_path)
    (root / "train_list.txt").rename(root / "mine.txt")
    lines = plan(root, train={"list": "mine.txt"})
    assert "train from mine.txt: 4 images, 4 objects\nval from val_list.txt: 4 images" in lines


def test_names_with_spaces_in_lists_are_understood(tmp_path: Path) -> None:
    scenes = {"a b.jpg": SCENES["1.jpg"], "c.jpg": []}
    write(tmp_path / "JPEGImages", tmp_path / "Annotations", scenes)
    (tmp_path / "train_list.txt").write_text(
        "JPEGImages/a b.jpg Annotations/a b.xml\r\nJPEGImages\\c.jpg\tAnnotations\\c.xml\n\n"
    )
    assert sorted(source(tmp_path).images["train"].paths.tolist() + source(tmp_path).images["val"].paths.tolist()) == [
        b"JPEGImages/a b.jpg",
        b"JPEGImages/c.jpg",
    ]


def test_a_changed_annotation_is_another_data_set(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, "{}", "{}")
    before, names = facts(root).files_hash, list(VocBoxes.file_names(root=str(root), batch_size=1))
    file = root / "train" / "1.xml"
    file.write_text(file.read_text() + "\n<!-- looked at again -->")
    assert facts(root).files_hash == before
    file.write_text(as_xml(SCENES["4.jpg"]))
    changed = set(VocBoxes.file_names(root=str(root), batch_size=1)) - set(names)
    assert facts(root).files_hash != before
    assert [name.partition("\t")[0] for name in changed] == ["train/train/1.jpg"]


def test_masks_are_refused_before_anything_starts(tmp_path: Path) -> None:
    write_xml(write_images(tmp_path))
    given = (f"data.root={tmp_path}", "data=voc_boxes", "data.batch_size=2")
    (found,) = problems(*given, "task=instance_segmentation", "model=mask_rcnn").values()
    assert found.key == "data.instance_masks" and found.instead.startswith("task=detection for boxes, or data=coco ")
    with pytest.raises(BadData, match="no outlines of objects"):
        facts(tmp_path, batch_size=2, instance_masks=True)
    assert not problems(*given, "task=detection", "model=yolov3", "model.backbone=tiny")
