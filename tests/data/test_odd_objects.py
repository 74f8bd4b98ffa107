"""Entries of annotation files that would be learned wrongly without a word, or end in a traceback."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import mask as coco_code
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from plainloop.data.boxes.annotations import offsets
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.files.shapes import sums_of
from plainloop.errors import BadData
from tests.data.test_odd_boxes import boxes_of, coco, first, plan
from tests.harness.annotated import SIZE, as_coco
from tests.harness.photos import photograph


def turned_by_exif(root: Path) -> Image.Image:
    picture = photograph(SIZE)
    exif = picture.getexif()
    exif[0x0112] = 6
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        picture.save(root / "JPEGImages" / name, exif=exif, quality=95)
    return picture


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_boxes_are_for_pixels_as_stored_whatever_exif_says(cache: Any, tmp_path: Path) -> None:
    picture = turned_by_exif(coco(tmp_path, as_coco()))
    data = CocoBoxes(
        root=str(tmp_path), batch_size=1, num_workers=0, image_size=80, device="cpu", cache=cache, val_fraction=0.3
    )
    stored = pil_to_tensor(picture)
    for batch in data.eval_batches("val"):
        assert (batch["image"][0, :, :60].float() - stored).abs().mean() < 8


def test_sizes_of_the_turned_image_end_the_run_and_the_message_names_exif(tmp_path: Path) -> None:
    content = as_coco()
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    turned_by_exif(coco(tmp_path, content))
    data = CocoBoxes(root=str(tmp_path), batch_size=1, num_workers=0, device="cpu", val_fraction=0.3)
    with pytest.raises(BadData, match=r"has 80 x 60 pixels, which its EXIF turns on the side, and .* for 60 x 80") as e:
        list(data.eval_batches("val"))
    assert "mogrify -auto-orient" in e.value.hint


SQUARE = {"size": [60, 80], "counts": [10, 50, 4740]}
SEGMENTATIONS: dict[str, tuple[Any, str]] = {
    "another size": (
        {"size": [50, 50], "counts": [2500]},
        r"for another size .*, id 1, has \[height, width\] \[50, 50\], and its image \[60, 80\]",
    ),
    "too few": (SQUARE | {"counts": [10, 50, 10]}, "annotations.json: 1 .*of the first, id 1, sum up to 70, .* 4,800"),
    "too many": (SQUARE | {"counts": [10, 50, 10000000]}, "sum up to 10,000,060"),
    "negative": (SQUARE | {"counts": [10, -50, 4840]}, "id 1, are damaged"),
    "no characters of COCO's": (SQUARE | {"counts": "\x01\x02zzz\xff"}, "id 1, are damaged"),
    "without an end": (SQUARE | {"counts": "z" * 19}, "id 1, are damaged"),
    "one size": (SQUARE | {"size": [60]}, r'segmentation of annotation 1 cannot be read: \{"size": \[60\]'),
    "three sizes": (SQUARE | {"size": [60, 80, 3]}, "segmentation of annotation 1 cannot be read"),
    "fractions": (SQUARE | {"counts": [10, 50.5, 4740]}, "segmentation of annotation 1 cannot be read"),
    "no counts": ({"size": [60, 80]}, "segmentation of annotation 1 cannot be read"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], r"annotation 1 cannot be read: \[\[1, 2, 3, 4, 5, 6, 7\]\]"),
    "words": ([["1", "2", "3", "4", "5", "6"]], "segmentation of annotation 1 cannot be read"),
    "points": ([[[1, 2], [3, 4], [5, 9]]], "segmentation of annotation 1 cannot be read"),
    "a text": ("abcdef", "segmentation of annotation 1 cannot be read"),
}


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_a_segmentation_that_cannot_be_read_is_shown(name: str, tmp_path: Path) -> None:
    shape, message = SEGMENTATIONS[name]
    with pytest.raises(BadData, match=message):
        plan(coco(tmp_path, first(as_coco(), segmentation=shape)), instance_masks=True)


@pytest.mark.parametrize(
    "shape", [SQUARE | {"counts": [4800]}, [[500, 500, 600, 500, 600, 600]], [[-9, 1, -2, 1, -2, 9]]]
)
def test_an_object_without_pixels_is_left_out_and_counted(shape: Any, tmp_path: Path) -> None:
    root = coco(tmp_path, first(as_coco(), segmentation=shape))
    said = "1 object whose outline is empty or outside of the image, left out"
    assert said in plan(root, instance_masks=True)
    assert not boxes_of(root, "1.jpg", instance_masks=True)
    assert said not in plan(root)


def test_whole_run_lengths_are_those_of_cocos_code() -> None:
    random = np.random.default_rng(0)
    masks = [(random.random((40, 300)) < share).astype(np.uint8) for share in (0, 0.001, 0.02, 0.5, 1)]
    codes = [coco_code.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    first_byte = offsets(np.array(list(map(len, codes))))
    every, inside = sums_of(np.frombuffer(b"".join(codes), np.uint8), first_byte)
    assert every.tolist() == [40 * 300] * 5
    assert inside.tolist() == [int(mask.sum()) for mask in masks]


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "crowd": ({"iscrowd": "0"}, r'annotation 1 cannot be read: .*, iscrowd "0"'),
    "too large": ({"bbox": [10**400, 1, 2, 3]}, "annotation 1 cannot be read"),
    "two numbers": ({"bbox": [1, 2]}, r"annotation 1 cannot be read: bbox \[1, 2\], image_id 0"),
    "area too large": ({"area": 10**400}, "annotation 1 cannot be read"),
    "list of categories": ({"category_id": [3]}, r"annotation 1 cannot be read: .* category_id \[3\],"),
    "list of images": ({"image_id": [1]}, r"annotation 1 cannot be read: .* image_id \[1\],"),
    "category in quotes": ({"category_id": "3"}, r'does not list: "3"; it lists 3 \(cat\)'),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_says_nothing_clear_is_named(name: str, tmp_path: Path) -> None:
    changes, message = ENTRIES[name]
    with pytest.raises(BadData, match=message):
        plan(coco(tmp_path, first(as_coco(), **changes)))


FILES: dict[str, tuple[dict[str, Any], str]] = {
    "half a character": ({"images": [{"id": 0, "file_name": "\ud800.jpg"}]}, "file_name of image 0 has half a"),
    "NUL": ({"images": [{"id": 0, "file_name": "a\0.jpg"}]}, "file_name of image 0 has a character that no file has"),
    "long": ({"images": [{"id": 0, "file_name": "a" * 300}]}, "file_name of image 0 is too long"),
    "null category": ({"categories": [*as_coco()["categories"], None]}, "categories has null where an object"),
    "null annotation": ({"annotations": [None]}, "annotations has null where an object"),
    "a list of parents": (
        {"categories": [{"id": 3, "name": "cat", "supercategory": ["a"]}]},
        r'supercategory of cat is \["a"\]',
    ),
    "one id": (
        {"categories": [{"id": 3, "name": "cat"}, {"id": 3, "name": "x"}]},
        r"the same id, 3: 3 \(cat\) and 3 \(x\)",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_lists_that_say_nothing_clear_have_one_message(name: str, tmp_path: Path) -> None:
    changes, message = FILES[name]
    with pytest.raises(BadData, match=message):
        plan(coco(tmp_path, as_coco() | changes))


def test_crowds_and_areas_below_0_are_counted_and_ids_in_quotes_are_shown_so(tmp_path: Path) -> None:
    content = first(as_coco(), iscrowd=True, area=-5)
    content["annotations"].append(content["annotations"][1] | {"id": 9, "image_id": "1"})
    lines = plan(coco(tmp_path, content))
    assert "train: 1 crowd, found or not counts neither way" in lines
    assert "train: 1 annotation with an area below 0" in lines
    assert 'not used: 1 annotation of images that it does not list, such as image_id "1"' in lines


def test_crowds_alone_teach_nothing(tmp_path: Path) -> None:
    content = as_coco()
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    with pytest.raises(BadData, match="no object of cat, dog is left to learn from") as error:
        plan(coco(tmp_path, content))
    assert "train: 4 crowds" in error.value.hint
