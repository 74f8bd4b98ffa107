"""Boxes as fractions or as two corners end the run before it starts; those that may be COCO's do not."""

import re
from pathlib import Path

import pytest

from plainloop.data.boxes.voc import VocBoxes
from plainloop.errors import BadData
from tests.data.test_odd_boxes import Content, coco, plan
from tests.harness.annotated import SIZE, Objects, as_coco, as_xml, write_images, write_xml

WIDTH, HEIGHT = SIZE


def with_boxes(*boxes: tuple[float, ...]) -> Content:
    """One object of the first image for each box, as [numbers] of bbox."""
    content = as_coco()
    one = content["annotations"][0]
    content["annotations"] = [one | {"id": number, "bbox": box} for number, box in enumerate(boxes, 1)]
    return content


def in_corner(num: int) -> list[tuple[float, ...]]:
    """Corners x0 y0 x1 y1 in the lower right half, which are outside as x y width height."""
    return [(40 + k, 31, 60 + k, 55) for k in range(num)]


def test_fractions_of_the_image_are_refused_with_an_example(tmp_path: Path) -> None:
    content = as_coco()
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    with pytest.raises(
        BadData, match=r"annotations.json: its boxes are fractions of the image, and COCO's are x y"
    ) as e:
        plan(coco(tmp_path, content))
    assert "annotation 1 of 1.jpg (80 x 60 pixels) has bbox [0.125, 0.0833, 0.375, 0.6667]" in str(e.value)
    assert "[x * W, y * H, width * W, height * H]" in e.value.hint


def test_small_boxes_in_pixels_are_no_fractions(tmp_path: Path) -> None:
    points = [(10.0 * k, 5, 1, 1) for k in range(5)]
    assert "5 objects" in plan(coco(tmp_path, with_boxes(*points)))


def test_few_fractions_among_empty_boxes_are_not_refused(tmp_path: Path) -> None:
    boxes = [(0.0, 0, 0, 0)] * 20 + [(0.1, 0.1, 0.5, 0.5)] * 2
    assert "20 boxes without a width or a height" in plan(coco(tmp_path, with_boxes(*boxes)))


def test_corners_in_the_place_of_width_and_height_are_refused_with_an_example(tmp_path: Path) -> None:
    boxes = [(1.0, 2, 5, 6), *in_corner(9)]
    with pytest.raises(
        BadData, match=r"annotations.json: its boxes are x0 y0 x1 y1, and COCO's are x y width"
    ) as error:
        plan(coco(tmp_path, with_boxes(*boxes)))
    assert "annotation 2 of 1.jpg (80 x 60 pixels) has bbox [40.0, 31.0, 60.0, 55.0]" in str(error.value)
    assert "[x0, y0, x1 - x0, y1 - y0]" in error.value.hint


@pytest.mark.parametrize(
    "boxes",
    [
        in_corner(9),  # too few
        in_corner(9) + [(1.0, 2, 40, 50)] * 9,  # half of them are inside
        [*in_corner(9), (40.0, 31, 30, 55)],  # no corners: a width is smaller than x
        [*in_corner(9), (40.0, 31, 90, 55)],  # outside as corners, too
    ],
)
def test_boxes_over_the_edge_that_may_be_cocos_are_cut(boxes: list[tuple[float, ...]], tmp_path: Path) -> None:
    assert "more than a pixel over the edge of the image, cut off there" in plan(coco(tmp_path, with_boxes(*boxes)))


def test_corners_are_not_seen_without_the_sizes_of_images(tmp_path: Path) -> None:
    content = with_boxes(*in_corner(10))
    for image in content["images"]:
        del image["width"], image["height"]
    assert "10 boxes more than a pixel over the edge" in plan(coco(tmp_path, content))


def test_fractions_in_xml_files_are_refused(tmp_path: Path) -> None:
    write_xml(write_images(tmp_path))
    small: Objects = [("cat", (0.25, 0.25, 0.5, 0.5))]
    for number in range(1, 5):
        text = re.sub(r"<([xy]min)>1.25", r"<\1>0.25", as_xml(small))
        (tmp_path / f"{number}.xml").write_text(text)
    with pytest.raises(BadData, match=r"fractions of the image, .* first object of 1.xml has .* 0.25 0.25 0.75 0.75"):
        plan(tmp_path, VocBoxes)
    (tmp_path / "4.xml").write_text(as_xml([("cat", (10, 10, 5, 5))]))
    assert "train from" in plan(tmp_path, VocBoxes)
