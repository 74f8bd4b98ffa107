"""COCO's annotation files: every layout is found, and objects are what pycocotools reads."""

import contextlib
import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainloop.contracts import Facts
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.files.coco_file import read_coco
from plainloop.data.boxes.files.shapes import compressed
from tests.harness.annotated import SCENES, SIZE, as_coco, write_coco, write_images
from tests.harness.commands import ROOT

COCO_OWN = {"train": ("annotations/instances_train2017.json", "train2017")}
COCO_OWN["val"] = ("annotations/instances_val2017.json", "val2017")
LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "COCO": COCO_OWN,
    "COCO in images": {split: (file, f"images/{folder}") for split, (file, folder) in COCO_OWN.items()},
    "Roboflow": {"train": ("train/_annotations.coco.json", "train"), "val": ("valid/_annotations.coco.json", "valid")},
    "PaddleX": {"train": ("train.json", "JPEGImages"), "val": ("val.json", "JPEGImages")},
    "named": {"train": ("x/first.json", "pictures/a"), "val": ("x/second.json", "pictures/b")},
}
OF_VAL = {f"v{name}": objects for name, objects in SCENES.items()}


def source(root: Path, **settings: Any) -> CocoBoxes:
    given = {"batch_size": 2, "num_workers": 0, "image_size": 40, "device": "cpu"} | settings
    return CocoBoxes(root=str(root), **given)


def facts(root: Path, **settings: Any) -> Facts:
    return CocoBoxes.facts(root=str(root), **settings)


def plan(root: Path, **settings: Any) -> str:
    return "\n".join(CocoBoxes.plan_lines(root=str(root), batch_size=2, **settings))


def one_split(root: Path, content: Any = None) -> Path:
    write_images(root / "JPEGImages")
    write_coco(root / "annotations.json", content)
    return root


def two_splits(root: Path, train: Any = None, val: Any = None) -> Path:
    write_images(root / "JPEGImages", [*SCENES, *OF_VAL])
    write_coco(root / "train.json", train)
    write_coco(root / "val.json", val or as_coco(OF_VAL))
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_found_and_gives_the_boxes_of_its_images(name: str, tmp_path: Path) -> None:
    for split, scenes in (("train", SCENES), ("val", OF_VAL)):
        file, folder = LAYOUTS[name][split]
        write_images(tmp_path / folder, list(scenes))
        write_coco(tmp_path / file, as_coco(scenes))
    of_split = {split: {"annotations": file, "images": folder} for split, (file, folder) in LAYOUTS[name].items()}
    settings = of_split if name == "named" else {}
    found = facts(tmp_path, image_size=40, **settings)
    assert (found.num_train, found.num_val, found.class_names, found.image_shape) == (4, 4, ("cat", "dog"), (3, 40, 40))
    assert found.class_counts is None
    data = source(tmp_path, **settings)
    batches = list(data.eval_batches("val"))
    valid = [batch["box_valid"] for batch in batches]
    labels = [batch["box_label"][of].tolist() for batch, of in zip(batches, valid, strict=True)]
    assert labels == [[0, 1, 0], [1]]
    boxes = [batch["boxes"][of].tolist() for batch, of in zip(batches, valid, strict=True)]
    assert boxes == [[[5, 2.5, 20, 22.5], [0, 0, 40, 30], [20.25, 10.125, 24.25, 12.125]], [[35, 25, 40, 30]]]
    assert [data.name_of("val", i).rpartition("/")[2] for i in range(4)] == list(OF_VAL)


def random_coco(seed: int) -> dict[str, Any]:
    """Objects in no order, some of them crowds with run lengths, with and without compression."""
    draw = random.Random(seed)
    content = as_coco({f"{i}.jpg": [] for i in range(12)}, {9: "zebra", 1: "person", 4: "boat"})
    for number in range(60):
        x, y = draw.randrange(60), draw.randrange(40)
        w, h = draw.randrange(1, 80 - x), draw.randrange(1, 60 - y)
        segmentation: Any = [[x, y, x + w, y, x + w / 2, y + h], [x, y, x + 1, y + 1, x, y + 1]]
        if crowd := number % 5 == 0:
            before = x * 60 + y
            counts = [before, h, 60 * 80 - before - h]
            segmentation = {"size": [60, 80], "counts": compressed(counts).decode() if number % 2 else counts}
        content["annotations"].append(
            {
                "id": 100 - number,
                "image_id": draw.randrange(12),
                "category_id": draw.choice([1, 4, 9]),
                "bbox": [x, y, w, h],
                "area": draw.uniform(1, w * h),
                "iscrowd": int(crowd),
                "segmentation": segmentation,
            }
        )
    return content


def test_objects_are_what_pycocotools_reads(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    file = write_coco(tmp_path / "a.json", random_coco(0))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(file))
    part = read_coco(file, "a.json", with_masks=True)
    names = {number: category["name"] for number, category in reference.cats.items()}
    assert part.class_names == ("person", "boat", "zebra")
    for index in range(12):
        expected, found = reference.imgToAnns[index], part.annotated.objects(index)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in expected)]
        assert part.annotated.boxes[found].tolist() == corners
        label = part.annotated.label[found].tolist()
        assert [part.class_names[i] for i in label] == [names[one["category_id"]] for one in expected]
        assert part.annotated.crowd[found].tolist() == [bool(one["iscrowd"]) for one in expected]
        assert part.annotated.area[found].tolist() == [np.float32(one["area"]) for one in expected]


def test_outlines_are_what_pycocotools_reads(tmp_path: Path) -> None:
    from pycocotools import mask as masks
    from pycocotools.coco import COCO

    file = write_coco(tmp_path / "a.json", random_coco(1))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(file))
    part = read_coco(file, "a.json", with_masks=True)
    outlines = part.annotated.outlines
    assert outlines is not None
    objects = [one for index in range(12) for one in reference.imgToAnns[index]]
    for number, one in enumerate(objects):
        if one["iscrowd"]:
            runs = {"size": outlines.runs_size[number].tolist(), "counts": outlines.runs_of(number)}
            assert np.array_equal(masks.decode(runs), reference.annToMask(one))
        else:
            assert [polygon.flatten().tolist() for polygon in outlines.polygons_of(number)] == one["segmentation"]
    assert sum(one["iscrowd"] for one in objects) == 12


def test_outlines_stay_with_their_objects_when_others_and_images_go(tmp_path: Path) -> None:
    """The first point of each polygon is the corner of its box; one object is left out, and one image validates."""
    content = as_coco()
    content["annotations"][1]["bbox"][2] = 0
    data = source(one_split(tmp_path, content), instance_masks=True, class_names=["cat", "dog"])
    seen = []
    for images in data.found().splits.values():
        assert images.outlines is not None
        for number, box in enumerate(images.boxes.tolist()):
            (polygon,) = images.outlines.polygons_of(number)
            assert polygon[0].tolist() == box[:2]
            seen.append(box[:2])
    assert sorted(seen) == [[10, 5], [40.5, 20.25], [70, 50]]


@pytest.mark.parametrize("indent", [None, 2])
def test_without_masks_the_objects_are_the_same(indent: int | None, tmp_path: Path) -> None:
    """Polygons are then not decoded, and nothing else may be lost with them."""
    content = random_coco(2)
    content["annotations"][0]["segmentation"] = [[1e-7, 2.5e3, -1, 0, 3, 4], [1, 2, 3, 4, 5, 6]]
    content["annotations"][1] |= {"segmentation": [], "note": '"segmentation": [[1, 2]]'}
    content["annotations"][2] = dict(reversed(content["annotations"][2].items()))
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content, indent=indent))
    content["annotations"][1]["segmentation"] = content["annotations"][0]["segmentation"]
    whole = read_coco(write_coco(tmp_path / "b.json", content), "", with_masks=True).annotated
    light = read_coco(file, "", with_masks=False).annotated
    assert light.outlines is None
    for name in ("images", "sizes", "first", "boxes", "label", "crowd", "area"):
        assert np.array_equal(getattr(light, name), getattr(whole, name)), name


def test_names_decide_where_splits_number_their_categories_in_different_ways(tmp_path: Path) -> None:
    root = two_splits(tmp_path, val=as_coco(OF_VAL, {1: "dog", 2: "cat"}))
    first = next(source(root).eval_batches("val"))
    assert first["box_label"][first["box_valid"]].tolist() == [0, 1, 0]
    assert "val numbers its categories in another order than train: their names decide" in plan(root)
    assert "another order" not in plan(two_splits(tmp_path / "same"))


def test_a_category_that_only_groups_others_is_no_class(tmp_path: Path) -> None:
    content = as_coco(classes={0: "pets", 3: "cat", 7: "dog"})
    for category in content["categories"]:
        category["supercategory"] = "none" if category["id"] == 0 else "pets"
    root = one_split(tmp_path, content)
    assert facts(root).class_names == ("cat", "dog")
    assert "not a class, because it only groups others and has no object: pets" in plan(root)
    content["annotations"][0]["category_id"] = 0
    assert facts(one_split(tmp_path, content)).class_names == ("pets", "cat", "dog")


def test_chosen_classes_have_the_order_that_is_typed_and_others_are_counted(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    assert facts(root, class_names=["dog", "cat"]).class_names == ("dog", "cat")
    first = next(source(root, class_names=["dog", "cat"]).eval_batches("val"))
    assert first["box_label"][first["box_valid"]].tolist() == [1, 0, 1]
    lines = plan(root, class_names=["dog"])
    assert "train: not used: objects of other classes: cat (2)" in lines
    assert "train: 2 images without objects, used as background" in lines
    (root / "names.txt").write_text("dog\n\ncat\n")
    assert facts(root, class_names="names.txt").class_names == ("dog", "cat")


def test_without_val_a_part_is_held_out_that_stays_when_images_are_added(tmp_path: Path) -> None:
    few = {f"{i}.jpg": SCENES["1.jpg"] for i in range(20)}
    write_images(tmp_path / "JPEGImages", [*few, "z.jpg"])
    write_coco(tmp_path / "annotations.json", as_coco(few))
    found = source(tmp_path).images
    assert (len(found["train"]), len(found["val"])) == (16, 4)
    write_coco(tmp_path / "annotations.json", as_coco(few | {"z.jpg": []}))
    more = source(tmp_path).images
    assert len(set(found["val"].paths) & set(more["val"].paths)) >= 3


def test_a_changed_object_is_another_data_set_and_its_image_is_named(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    before, names = facts(root).files_hash, list(CocoBoxes.file_names(root=str(root), batch_size=1))
    content = as_coco()
    write_coco(root / "train.json", content | {"info": {"exported": "later"}})
    assert facts(root).files_hash == before
    content["annotations"][1]["bbox"][0] += 1
    write_coco(root / "train.json", content)
    changed = set(CocoBoxes.file_names(root=str(root), batch_size=1)) - set(names)
    assert facts(root).files_hash != before
    assert [name.partition("\t")[0] for name in changed] == ["train/JPEGImages/2.jpg"]


def test_a_command_trains_and_measures(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "data")
    words = ["task=detection", "model=yolov3", "model.backbone=tiny", "data=coco", f"data.root={root}"]
    words += ["data.image_size=64", "data.batch_size=2", "data.num_workers=0", "trainer.duration=2st", "device=cpu"]
    words += [f"hydra.run.dir={tmp_path / 'run'}", "report=never"]
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["classes"]) == (2, ["cat", "dog"])
    assert SIZE == (80, 60)
