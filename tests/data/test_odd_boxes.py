"""Odd annotations: the right result and a count, or one message that says what, where and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainloop.data.boxes.boxed_files import BoxedFiles
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.files.coco_file import read_coco
from plainloop.data.boxes.voc import VocBoxes
from plainloop.errors import BadData
from tests.harness.annotated import SCENES, SIZE, as_coco, as_xml, write_coco, write_images, write_xml
from tests.harness.photos import photograph

Content = dict[str, Any]


def coco(root: Path, content: Any) -> Path:
    write_images(root / "JPEGImages")
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations.json").write_text(text)
    return root


def first(content: Content, **changes: Any) -> Content:
    """With these entries in the first annotation; None takes one out."""
    entry = content["annotations"][0] | changes
    content["annotations"][0] = {key: value for key, value in entry.items() if value is not None}
    return content


def with_box(x: float, y: float, w: float, h: float) -> Content:
    return first(as_coco(), bbox=[x, y, w, h])


def plan(root: Path, kind: type[BoxedFiles] = CocoBoxes, **settings: Any) -> str:
    return "\n".join(kind.plan_lines(root=str(root), batch_size=2, **settings))


def boxes_of(root: Path, name: str, kind: type[BoxedFiles] = CocoBoxes, **settings: Any) -> list[list[float]]:
    data = kind(root=str(root), batch_size=1, **settings)
    for images in data.found().splits.values():
        for index, image in enumerate(images.images):
            if image.decode().endswith(name):
                found: list[list[float]] = images.boxes[images.objects(index)].tolist()
                return found
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("box", "expected", "said"),
    [
        ((10, 5, 0, 40), [], "train: 1 box without a width or a height, left out"),
        ((10, 5, 30, -1), [], "train: 1 box without a width or a height, left out"),
        ((80, 5, 30, 40), [], "train: 1 box outside of the image, left out"),
        ((-40, 5, 40, 40), [], "train: 1 box outside of the image, left out"),
        ((60, -5, 30, 40), [[60, 0, 80, 35]], "train: 1 box more than a pixel over the edge of the image, cut off"),
        ((50, 5, 30.25, 40), [[50, 5, 80, 45]], ""),
    ],
)
def test_flat_boxes_and_boxes_outside_are_cut_or_left_out_and_counted(
    box: tuple[float, ...], expected: list[list[float]], said: str, tmp_path: Path
) -> None:
    root = coco(tmp_path, with_box(*box))
    assert boxes_of(root, "1.jpg") == expected
    lines = plan(root)
    assert said in lines
    assert said or "box" not in lines


def test_images_without_objects_are_trained_on_and_many_objects_too(tmp_path: Path) -> None:
    content = as_coco()
    content["annotations"] += [content["annotations"][0] | {"id": 100 + i} for i in range(150)]
    root = two_files(tmp_path, as_coco())
    write_coco(root / "train.json", content)
    assert "train: 1 image without objects, used as background" in plan(root)
    data = CocoBoxes(root=str(root), batch_size=4, num_workers=0, image_size=40, device="cpu")
    batch = next(data.train_batches(0, 1, 0))
    assert batch["boxes"].shape == (4, 151, 4)
    assert sorted(batch["box_valid"].sum(1).tolist()) == [0, 1, 2, 151]


def test_what_cannot_matter_is_counted(tmp_path: Path) -> None:
    content = as_coco()
    content["annotations"] += [content["annotations"][1] | {"image_id": 99}]
    write_images(tmp_path / "JPEGImages", ["other.jpg"])
    lines = plan(coco(tmp_path, content))
    assert "train: not used: 1 annotation of images that it does not list" in lines
    assert "train: 1 annotation with the id of another: all are used" in lines
    assert "not used: 1 image that no annotation file lists: JPEGImages/other.jpg" in lines


def test_images_that_are_not_there_end_the_run_or_are_skipped_and_counted(tmp_path: Path) -> None:
    root = coco(tmp_path, as_coco())
    (root / "JPEGImages" / "3.jpg").unlink()
    with pytest.raises(BadData, match=r"annotations.json: 1 of 4 images not there: JPEGImages/3.jpg"):
        plan(root)
    assert "1 image not there, which training will skip: JPEGImages/3.jpg" in plan(root, on_bad_image="skip")


def test_an_image_of_another_size_than_its_annotations_ends_the_run(tmp_path: Path) -> None:
    root = coco(tmp_path, as_coco())
    photograph((40, 30)).save(root / "JPEGImages" / "2.jpg")
    data = CocoBoxes(root=str(root), batch_size=1, num_workers=0, device="cpu", val_fraction=0.3)
    with pytest.raises(BadData, match=r"2.jpg has 40 x 30 pixels, and its annotations are for 80 x 60"):
        _ = [*data.eval_batches("val"), *data.eval_batches("train")]


def test_a_size_that_is_not_said_is_that_of_the_file(tmp_path: Path) -> None:
    content = as_coco({"1.jpg": [("cat", (50, 5, 40, 70))], "2.jpg": []})
    for image in content["images"]:
        del image["width"], image["height"]
    assert boxes_of(coco(tmp_path, content), "1.jpg") == [[50, 5, 80, 60]]
    turned = photograph(SIZE)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "JPEGImages" / "1.jpg", exif=exif)
    write_coco(tmp_path / "annotations.json", content | {"info": 1})
    assert boxes_of(tmp_path, "1.jpg") == [[50, 5, 80, 60]]


def without(key: str) -> Content:
    return {name: value for name, value in as_coco().items() if name != key}


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "half": (lambda: json.dumps(as_coco(), indent=1)[:900], r"no whole JSON file: .* in line \d\d, column \d+, at"),
    "empty": (lambda: "", r"no whole JSON file: Expecting '{' in line 1, column 1"),
    "a list": (lambda: [1, 2], "holds a list, and annotations are expected"),
    "results": (
        lambda: [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}],
        "holds detections, the results of a model",
    ),
    "no annotations": (lambda: without("annotations"), "has no list called annotations"),
    "no categories": (lambda: without("categories"), "has no list called categories"),
    "an object for a list": (lambda: as_coco() | {"images": {"a": 1}}, r'images is {"a": 1}, and a list is expected'),
    "a list for an object": (lambda: as_coco() | {"images": [[1]]}, r"images has \[1\] where an object"),
    "unknown category": (
        lambda: first(as_coco(), category_id=5),
        r"1 annotation with a category_id .*: 5; .*3 \(cat\)",
    ),
    "nameless category": (lambda: as_coco() | {"categories": [{"id": 3}]}, "category needs an id and a name"),
    "two of one name": (lambda: as_coco(classes={3: "cat", 5: "cat", 7: "dog"}), "two categories have"),
    "two of one id": (lambda: as_coco() | {"images": as_coco()["images"] * 2}, "the images .* have the same id"),
    "nameless image": (lambda: as_coco() | {"images": [{"id": 1}]}, "an image needs an id and a file_name"),
    "no number": (lambda: with_box(float("nan"), 1, 2, 3), r"numbers that are none; the first, id 1, has bbox \[nan"),
    "a word": (lambda: first(as_coco(), bbox=["1", 2, 3, 4]), "annotation 1 cannot be read"),
    "three numbers": (lambda: first(as_coco(), bbox=[1, 2, 3]), "annotation 1 cannot be read"),
    "no bbox": (lambda: first(as_coco(), bbox=None), "annotation 1 has no bbox"),
    "no objects": (lambda: as_coco() | {"annotations": []}, "no object of cat, dog is left to learn from"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_coco_file_has_one_message(name: str, tmp_path: Path) -> None:
    make, message = BROKEN[name]
    with pytest.raises(BadData, match=message):
        plan(coco(tmp_path, make()))


def test_masks_need_outlines_of_all_objects(tmp_path: Path) -> None:
    content = first(as_coco(), segmentation=None)
    with pytest.raises(BadData, match=r"1 of 4 annotations have no outline of three points or more \(id 1\)"):
        plan(coco(tmp_path, content), instance_masks=True)
    for entry in content["annotations"]:
        entry["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(BadData, match="4 of 4 annotations have no outline of three points or more"):
        plan(coco(tmp_path, content), instance_masks=True)
    for entry in content["annotations"]:
        entry["segmentation"] = []
    with pytest.raises(BadData, match="annotations have boxes only, no segmentation"):
        plan(coco(tmp_path, content), instance_masks=True)
    assert plan(tmp_path)


def test_polygons_with_numbers_that_are_none_are_told_and_flat_ones_are_read(tmp_path: Path) -> None:
    content = as_coco()
    flat = first(as_coco(), segmentation=content["annotations"][0]["segmentation"][0])
    data = CocoBoxes(root=str(coco(tmp_path / "a", flat)), batch_size=1, instance_masks=True)
    part = read_coco(tmp_path / "a" / "annotations.json", "", with_masks=True).annotated
    assert part.outlines is not None
    assert [polygon.tolist() for polygon in part.outlines.polygons_of(0)] == [[[10, 5], [40, 5], [40, 45]]]
    assert len(data.found().splits["train"].images) == 3
    content["annotations"][1]["segmentation"].append([1, 2, 3, float("nan"), 5, 6])
    with pytest.raises(BadData, match="segmentation of id 2 has numbers that are none"):
        plan(coco(tmp_path / "b", content), instance_masks=True)


def two_files(root: Path, val: Content) -> Path:
    write_images(root / "JPEGImages")
    write_coco(root / "train.json")
    write_coco(root / "val.json", val)
    return root


def test_splits_that_disagree_are_told(tmp_path: Path) -> None:
    kitten = as_coco(classes={3: "cat", 7: "dog"})
    kitten["categories"][0]["name"] = "kitten"
    with pytest.raises(BadData, match=r"val.json has objects of classes .*: kitten \(2\); those are cat, dog"):
        plan(two_files(tmp_path / "a", kitten))
    lines = plan(two_files(tmp_path / "b", as_coco({"1.jpg": SCENES["1.jpg"]})))
    assert "1 image in train and in val, which measures too well: JPEGImages/1.jpg" in lines
    assert "val has no objects" in plan(two_files(tmp_path / "c", as_coco({"1.jpg": []})))


def test_a_folder_in_which_nothing_is_found_is_told_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        plan(tmp_path / "none")
    with pytest.raises(BadData, match="it has no JSON files") as found:
        plan(tmp_path)
    assert "Roboflow" in found.value.hint
    with pytest.raises(BadData, match="has no XML files, and 0 images") as found:
        plan(tmp_path, VocBoxes)
    assert "LabelImg" in found.value.hint
    coco(tmp_path / "a", as_coco())
    (tmp_path / "a" / "JPEGImages").rename(tmp_path / "a" / "somewhere")
    with pytest.raises(BadData, match=r"none of the 4 images of annotations.json is there, such as 1.jpg; looked in"):
        plan(tmp_path / "a")
    coco(tmp_path / "b" / "inside", as_coco())
    with pytest.raises(BadData, match=r"inside/ inside has some") as found:
        plan(tmp_path / "b")
    assert found.value.hint == f"data.root={tmp_path / 'b' / 'inside'}"
    write_xml(write_images(tmp_path / "c" / "VOC2007" / "JPEGImages"))
    with pytest.raises(BadData, match=r"VOC2007/JPEGImages/\d.xml may be in Pascal VOC's form") as found:
        plan(tmp_path / "c")
    assert found.value.hint == "data=voc_boxes"


def test_a_split_is_named_alone_and_the_others_are_found(tmp_path: Path) -> None:
    write_coco(two_files(tmp_path, as_coco()) / "new.json")
    lines = plan(tmp_path, val={"annotations": "new.json", "images": "JPEGImages"})
    assert "train from train.json: 4 images" in lines and "val from new.json: 4 images" in lines
    (tmp_path / "train.json").unlink()
    (tmp_path / "val.json").unlink()
    with pytest.raises(
        BadData, match=r"no annotation file for train.* beside the one that data.val.annotations"
    ) as found:
        plan(tmp_path, val={"annotations": "new.json", "images": "JPEGImages"})
    assert found.value.hint.startswith("data.train.annotations=new.json, or ")
    write_xml(tmp_path / "JPEGImages")
    with pytest.raises(BadData, match=r"data.train.annotations: must be given, too") as found:
        plan(tmp_path, VocBoxes, val={"annotations": "JPEGImages"})
    assert found.value.hint == "data.train.annotations=JPEGImages, or other folders to train on"


WRONG_XML = {
    "half": (as_xml(SCENES["2.jpg"])[:200], r"1.xml is no whole XML file: .* in line 1, column \d+"),
    "another": ("<svg/>", "begins with <svg>, and Pascal VOC's files begin with <annotation>"),
    "no name": (as_xml([("", (1, 2, 3, 4))]), "1.xml, object 1 has no <name>"),
    "no number": (as_xml([("cat", (1, 2, 3, 4))]).replace("<xmin>2", "<xmin>two"), "<xmin> is 'two'"),
    "NaN": (as_xml([("cat", (1, 2, 3, 4))]).replace("<xmax>4", "<xmax>nan"), "<xmax> is 'nan'"),
    "no box": (as_xml([("cat", (1, 2, 3, 4))]).replace("bndbox", "polygon"), r"object 1 \(cat\) has no <xmin>"),
}


@pytest.mark.parametrize("name", WRONG_XML)
def test_a_broken_xml_file_has_one_message(name: str, tmp_path: Path) -> None:
    text, message = WRONG_XML[name]
    write_xml(write_images(tmp_path))
    (tmp_path / "1.xml").write_text(text)
    with pytest.raises(BadData, match=message):
        plan(tmp_path, VocBoxes)


def test_an_xml_file_without_a_size_takes_that_of_the_image(tmp_path: Path) -> None:
    write_xml(write_images(tmp_path))
    text = as_xml([("cat", (70, 5, 40, 40))])
    (tmp_path / "1.xml").write_text(text[: text.index("<size>")] + text[text.index("</size>") + 7 :])
    assert boxes_of(tmp_path, "1.jpg", VocBoxes) == [[70, 5, 80, 45]]


def test_images_and_xml_files_without_each_other(tmp_path: Path) -> None:
    write_xml(write_images(tmp_path))
    (tmp_path / "3.xml").unlink()
    assert "not used: 1 image without an XML file (background needs one without objects): 3.jpg" in plan(
        tmp_path, VocBoxes
    )
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(BadData, match=r"1 XML file without an image: 1.xml; there are 3 images"):
        plan(tmp_path, VocBoxes)


def test_a_name_that_labels_txt_does_not_have_is_told(tmp_path: Path) -> None:
    write_xml(write_images(tmp_path))
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(BadData, match=r"labels.txt has no dog, and there are objects of that name; it has cat"):
        plan(tmp_path, VocBoxes)


def test_a_class_that_nothing_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"data.class_names: no annotation file lists horse; they list cat, dog") as found:
        plan(coco(tmp_path, as_coco()), class_names=["cat", "horse"])
    assert not found.value.hint
    with pytest.raises(BadData) as found:
        plan(tmp_path, class_names=["dgo", "cat"])
    assert found.value.hint == "data.class_names=[dog,cat]"
