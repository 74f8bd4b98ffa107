"""What a survey finds of masks and of boxes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.commands.test_describe_data import described, part, photograph
from tests.harness.annotated import SCENES, as_coco, write_coco, write_images


@pytest.fixture
def masked(tmp_path):
    """Masks of the classes 0 and 1; the second training image has no labelled pixel."""
    for split, values in (("train", ([0, 0, 0, 1], [255] * 4)), ("val", ([0, 255, 255, 255],))):
        for number, value in enumerate(values):
            for kind, picture in (
                ("images", photograph((4, 1))),
                ("masks", Image.fromarray(np.array([value], np.uint8))),
            ):
                (tmp_path / "set" / kind / split).mkdir(parents=True, exist_ok=True)
                picture.save(tmp_path / "set" / kind / split / f"{number}.png")
    return tmp_path / "set"


OF_MASKS = ("data=mask_folder", "data.class_names=[sky,road,car]")


def test_masks_have_their_classes_counted_and_what_never_occurs_is_named(masked, capsys):
    lines, rows = described(capsys, masked, *OF_MASKS)
    assert part(lines, "images") == "images 2 train, 1 val"
    assert part(lines, "classes").endswith(
        "train val of pixels sky 1 1 75.00% road 1 0 25.00% car 0 0 0.00%"
    )  # of the labelled pixels of training
    told = [line.split(None, 1)[1] for line in lines if line.startswith("  missing")]
    assert told == ["in train: car", "in val: road, car"]
    assert part(lines, "unlabelled") == "unlabelled 1 images have no pixel of any class train: images/train/1.png"
    assert not any(row["problem"] for row in rows.values())


def test_small_images_with_masks_are_said_to_be_padded_not_enlarged(masked, capsys):
    photograph((6, 2)).save(masked / "images/val/0.png")
    Image.new("L", (6, 2)).save(masked / "masks/val/0.png")
    lines, _ = described(capsys, masked, *OF_MASKS)
    (told,) = (line.strip() for line in lines if "are smaller than" in line)
    assert told == "3 are smaller than data.image_size=512 and will be padded"


@pytest.mark.parametrize(
    ("size", "value", "told"),
    [((4, 1), 7, "has values that are no class: 7, the first at x=0, y=0"), ((3, 1), 0, "has 3 x 1 pixels, and its")],
)
def test_a_mask_that_does_not_fit_is_listed_with_its_reason(masked, capsys, size, value, told):
    Image.new("L", size, value).save(masked / "masks/train/0.png")
    _, rows = described(capsys, masked, *OF_MASKS, code=65)
    assert told in rows["images/train/0.png"]["problem"]
    assert rows["images/train/1.png"]["problem"] == ""


def boxed(root):
    content = as_coco()
    write_images(root / "JPEGImages")
    content["annotations"][0]["iscrowd"] = 1
    write_coco(root / "train.json", content)
    write_coco(root / "val.json", as_coco({"4.jpg": SCENES["4.jpg"]}))
    return root


def test_one_object_is_one_object(tmp_path, capsys):
    root = boxed(tmp_path / "set")
    write_coco(root / "train.json", as_coco({"1.jpg": SCENES["1.jpg"]}))
    lines, _ = described(capsys, root, "data=coco")
    assert part(lines, "classes").startswith("classes 2; the largest has 1 train object train val")


def test_objects_are_counted_with_their_sizes_and_flags(tmp_path, capsys):
    lines, rows = described(capsys, boxed(tmp_path / "set"), "data=coco", "data.image_size=160")
    assert part(lines, "images") == "images 4 train, 1 val"
    assert part(lines, "classes").endswith("train val cat 2 0 dog 2 1")
    assert (
        part(lines, "objects")
        == "objects 4 train, at most 2 in an image; 1 image with none 1 val, at most 1 in an image"
    )
    assert part(lines, "flags") == "flags 1 train crowd"
    # At twice the size 4 x 16, 4 x 50 and 4 x 2400 pixels of area; the crowd of 4 x 600 is not measured.
    assert part(lines, "areas").startswith("areas of train, resized to 160: 67% small, 0% medium, 33% large")
    assert part(lines, "missing") == "missing in val: cat"
    assert not any(row["problem"] for row in rows.values())
    text = (tmp_path / "described.html").read_text()
    assert text.count("data:image/png") == 1
