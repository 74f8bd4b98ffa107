"""From files in COCO's form to a loss and to AP: what the workers make of them, the models and the measure take."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plainloop.contracts import Batch
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.loading.decode import decode
from plainloop.models.detection.torchvision_models import TorchvisionDetector
from plainloop.models.detection.yolov3 import YOLOv3
from plainloop.tasks.average_precision import AveragePrecision
from plainloop.tasks.detection import Detection
from tests.harness.boxed import source as rectangles
from tests.harness.boxed import write_set

NAMES = {"map": 0, "map50": 1, "map75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "mar": 8}
CLASSES = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of different sizes, with objects of all of COCO's sizes, crowds, and some without any."""
    root, draw = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 24)):
        (root / split).mkdir()
        images, objects = [], []
        for i in range(number):
            width, height = map(int, draw.integers(60, 420, 2))
            Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
            for x, y, w, h in boxes_in(width, height, 0 if i % 5 == 4 else int(draw.integers(1, 7)), draw):
                place, kind = {"bbox": [x, y, w, h], "area": w * h * draw.uniform(0.4, 1)}, int(draw.integers(CLASSES))
                about = {
                    "id": len(objects) + 1,
                    "image_id": i,
                    "category_id": kind,
                    "iscrowd": int(draw.random() < 0.2),
                }
                objects.append(about | place)
        categories = [{"id": kind, "name": f"class{kind}"} for kind in range(CLASSES)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def boxes_in(width: int, height: int, number: int, draw: np.random.Generator) -> list[list[float]]:
    corners = draw.uniform(0, 0.7, (number, 2)) * (width, height)
    sides = 3 + draw.uniform(0, 1, (number, 2)) ** 2 * ((width, height) - corners - 3)
    return np.concatenate([corners, sides], axis=1).tolist()


def coco_boxes(root: Path, **settings: Any) -> CocoBoxes:
    given = {"batch_size": 5, "image_size": 160, "num_workers": 0, "device": "cpu", "timeout": 60} | settings
    named = {split: {"annotations": f"{split}.json", "images": split} for split in ("train", "val")}
    return CocoBoxes(root=str(root), **named, **given)


def found_in(root: Path) -> list[dict[str, Any]]:
    """Detections in pixels of the files: objects a little moved, and some that are nowhere."""
    content, draw = json.loads((root / "val.json").read_text()), np.random.default_rng(1)
    found = []
    for one in content["annotations"]:
        moved = np.array(one["bbox"]) * draw.normal(1, 0.06, 4) + draw.normal(0, 1, 4)
        found.append({name: one[name] for name in ("image_id", "category_id")} | {"bbox": moved.tolist()})
    for image in content["images"]:
        boxes = boxes_in(image["width"], image["height"], 3, draw)
        found += [{"image_id": image["id"], "category_id": int(draw.integers(CLASSES)), "bbox": box} for box in boxes]
    return [one | {"score": float(np.float32(draw.random()))} for one in found]


def predictions(found: list[dict[str, Any]], batch: Batch) -> Batch:
    """The same in pixels of the batch."""
    rows = [[one for one in found if one["image_id"] == index] for index in batch["index"].tolist()]
    longest = max(map(len, rows))
    shape = (len(rows), longest)
    made: Batch = {"boxes": torch.zeros(*shape, 4), "box_score": torch.zeros(shape)}
    made |= {"box_label": torch.zeros(shape, dtype=torch.int64), "box_valid": torch.zeros(shape, dtype=torch.bool)}
    for row, here in enumerate(rows):
        for i, one in enumerate(here):
            x, y, w, h = one["bbox"]
            made["boxes"][row, i] = torch.tensor([x, y, x + w, y + h]) * batch["image_scale"][row]
            made["box_score"][row, i], made["box_label"][row, i] = one["score"], one["category_id"]
            made["box_valid"][row, i] = True
    return made


def measured(root: Path, *without: str, **settings: Any) -> dict[str, float]:
    metrics, found = AveragePrecision(CLASSES), found_in(root)
    for batch in coco_boxes(root, **settings).eval_batches("val"):
        given = {name: values for name, values in batch.items() if name not in without}
        metrics.update(predictions(found, batch), given)
    return metrics.compute()


def reference(root: Path) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO(str(root / "val.json"))
        evaluation = COCOeval(real, real.loadRes(found_in(root)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in NAMES.items()}


@pytest.mark.parametrize("settings", [{}, {"image_size": 500}, {"cache": "ram", "cache_size": 160}])
def test_ap_of_resized_images_is_pycocotools_on_the_files(root: Path, settings: dict[str, Any]) -> None:
    assert measured(root, **settings) == pytest.approx(reference(root), abs=1e-6)


@pytest.mark.parametrize("entry", ["image_scale", "box_area", "box_crowd"])
def test_ap_without_what_the_files_say_would_be_another(root: Path, entry: str) -> None:
    """The control."""
    assert measured(root, entry) != pytest.approx(reference(root), abs=1e-3)


@pytest.mark.parametrize("settings", [{}, {"cache": "ram", "cache_size": 170}])
def test_an_image_of_ones_own_is_prepared_as_evaluation_does_it(root: Path, settings: dict[str, Any]) -> None:
    data = coco_boxes(root, **settings)
    prepare = CocoBoxes.preprocessing(**{"root": str(root), "batch_size": 1, "image_size": 160} | settings).prepare
    for batch in data.eval_batches("val"):
        for image, index in zip(batch["image"], batch["index"].tolist()):
            assert torch.equal(image, prepare(decode(root / data.name_of("val", index))))


SMALL = {"num_classes": 7, "backbone": "test_resnet", "channels": 32, "anchor_sizes": [8, 16, 32, 64, 128]}
MODELS = {
    "yolov3": lambda: YOLOv3(num_classes=7, backbone="tiny", width=4),
    "faster_rcnn": lambda: TorchvisionDetector(architecture="faster_rcnn", **SMALL),
    "fcos": lambda: TorchvisionDetector(architecture="fcos", **SMALL),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_learn_from_batches_with_and_without_objects(name: str, tmp_path: Path) -> None:
    """Three images of which one has objects, and then three without any: the padding is one row."""
    write_set(tmp_path, (0, 5, 0, 0, 0, 0), (1,))
    torch.manual_seed(0)
    model, task = MODELS[name](), Detection(num_classes=7)
    data, objects = rectangles(tmp_path, batch_size=3, image_size=64), []
    for batch in data.train_batches(0, 2, seed=0):
        objects.append(int(batch["box_valid"].sum()))
        loss, _ = task.loss(model, batch | {"image": batch["image"].float() / 255})
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
        model.zero_grad()
    assert sorted(objects) == [0, 5]
