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
from torch import Tensor, nn

from plainloop.contracts import Batch
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.letterbox import letterbox
from plainloop.data.loading.decode import decode
from plainloop.models.detection.torchvision_models import TorchvisionDetector
from plainloop.models.detection.yolov3 import YOLOv3
from plainloop.tasks.average_precision import AveragePrecision
from plainloop.tasks.boxes.found import as_coco
from plainloop.tasks.boxes.found import found_in as brought_back
from plainloop.tasks.boxes.inside import inside
from plainloop.tasks.details import Details
from plainloop.tasks.detection import Detection
from tests.harness.boxed import source as rectangles
from tests.harness.boxed import write_set
from tests.tasks.test_voc_precision import slow_voc

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
                if draw.random() < 0.3:  # it ends where the image ends
                    w, h = width - x, height - y
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


class Gives(nn.Module):
    """Stands for a model that finds these."""

    def __init__(self, found: Batch) -> None:
        super().__init__()
        self.found = found

    def forward(self, image: Tensor) -> Batch:
        return self.found


def measured(root: Path, *without: str, **settings: Any) -> dict[str, float]:
    metrics, found = AveragePrecision(CLASSES), found_in(root)
    for batch in coco_boxes(root, **settings).eval_batches("val"):
        given = {name: values for name, values in batch.items() if name not in without}
        metrics.update(predictions(found, batch), given)
    return metrics.compute()


def reference(root: Path, found: list[dict[str, Any]] | None = None) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO(str(root / "val.json"))
        evaluation = COCOeval(real, real.loadRes(found or found_in(root)), "bbox")
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


def reaching_out(root: Path) -> list[dict[str, Any]]:
    """Detections at the edges of their image reach beyond it; and each image has some that lie beside it."""
    sizes = {one["id"]: (one["width"], one["height"]) for one in json.loads((root / "val.json").read_text())["images"]}
    found = found_in(root)
    for one in found:
        (x, y, w, h), (width, height) = one["bbox"], sizes[one["image_id"]]
        one["bbox"] = [x, y, w * (1 + (x + w > 0.9 * width)), h * (1 + (y + h > 0.9 * height))]
    beside = [
        {"image_id": i, "category_id": i % CLASSES, "score": 0.9 + i / 1000, "bbox": [width, height, 20, 20]}
        for i, (width, height) in sizes.items()
    ]
    return found + beside


def said(root: Path) -> list[dict[str, Any]]:
    """The rows of predictions_coco.json for these detections."""
    task, found, rows = Detection(num_classes=CLASSES), reaching_out(root), list[dict[str, Any]]()
    for batch in coco_boxes(root).eval_batches("val"):
        alone = {"image": batch["image"]}
        results = task.results(task.predict(Gives(predictions(found, batch)), alone), alone)
        for row, index in enumerate(batch["index"].tolist()):
            with Image.open(root / "val" / f"{index}.png") as picture:
                width, height = picture.size
            result = {name: values[row] for name, values in results.items()}
            objects = brought_back(result, batch["image"].shape[-2:], (height, width), letterboxed=True)
            rows += as_coco(objects, index, f"{index}.png", "abc")
    return [one | {"category_id": one["category_id"] - 1} for one in rows]


def evaluated(root: Path, measure: str, *, is_cut: bool = True) -> tuple[dict[str, float], Details]:
    task, found = Detection(num_classes=CLASSES, measure=measure), reaching_out(root)
    metrics = task.metrics()
    for batch in coco_boxes(root).eval_batches("val"):
        batch["box_difficult"] = batch["box_crowd"]
        raw = predictions(found, batch)
        metrics.update(task.predict(Gives(raw), batch) if is_cut else raw, batch)
    return metrics.compute(), metrics.details()


def test_ap_of_an_evaluation_is_pycocotools_on_what_predict_writes(root: Path) -> None:
    """Both cut detections off where the photograph ends."""
    rows = said(root)
    assert len(rows) < len(reaching_out(root))
    assert evaluated(root, "coco")[0] == pytest.approx(reference(root, rows), abs=1e-6)
    uncut, _ = evaluated(root, "coco", is_cut=False)
    assert abs(uncut["map"] - reference(root, rows)["map"]) > 1e-2  # the control


def test_ap_of_voc_and_what_is_found_are_those_of_what_predict_writes(root: Path) -> None:
    rows, pairs, metrics = (
        said(root),
        list[tuple[Batch, Batch]](),
        Detection(num_classes=CLASSES, measure="voc").metrics(),
    )
    for batch in coco_boxes(root).eval_batches("val"):
        in_files = batch | {"image_scale": torch.ones(len(batch["index"])), "box_difficult": batch["box_crowd"]}
        in_files["boxes"] = batch["boxes"] / batch["image_scale"][:, None, None]
        pairs.append((predictions(rows, in_files), in_files))
        metrics.update(*pairs[-1])
    (values, details), (uncut, others) = evaluated(root, "voc"), evaluated(root, "voc", is_cut=False)
    assert values["map"] == pytest.approx(slow_voc(pairs)["map"], abs=1e-6)
    metrics.compute()
    np.testing.assert_allclose(details.samples, metrics.details().samples, atol=1e-4)
    assert abs(uncut["map"] - values["map"]) > 1e-2 and np.sum(others.samples, 0)[4] > np.sum(details.samples, 0)[4]


@pytest.mark.parametrize(
    ("size", "side"),
    [((30, 60), 40), ((60, 20), 40), ((61, 64), 40), ((1, 300), 40), ((40, 40), 40), ((190, 640), 416)],
)
def test_masks_end_where_the_photograph_ends(size: tuple[int, int], side: int) -> None:
    """Of the last it has 123.5 rows, in float32 123.49999."""
    square, factor = letterbox(torch.full((3, *size), 200, dtype=torch.uint8), (side, side))
    found = {"boxes": torch.tensor([[[0.0, 0, side, side]]]), "box_valid": torch.ones(1, 1, dtype=torch.bool)}
    found["instance_mask"] = torch.ones(1, 1, side, side, dtype=torch.bool)
    batch = {"image": square[None], "image_size": torch.tensor([size]), "image_scale": torch.tensor([factor])}
    assert torch.equal(inside(found, batch)["instance_mask"][0, 0], square[0] == 200)
    assert inside(found, {"image": square[None]})["instance_mask"].all()


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
