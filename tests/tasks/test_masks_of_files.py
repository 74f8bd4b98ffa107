"""Average precision of masks is COCO's: in the pixels of the files, against the outlines that these have."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plainloop.contracts import Batch
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.distributed import collectives
from plainloop.tasks.boxes.found import as_coco, found_in
from plainloop.tasks.boxes.inside import inside
from plainloop.tasks.boxes.runs import codes_from, regions_of
from plainloop.tasks.detection import Detection
from tests.harness.ranks import on_ranks

NAMES = {"map": 0, "map50": 1, "map75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "mar": 8}
CLASSES = 3
SQUARE = 160


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of different sizes: objects of one or two polygons, others with run lengths, crowds, and none."""
    root, draw = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    for split, number in (("train", 1), ("val", 24)):
        (root / split).mkdir()
        images, objects = [], list[dict[str, Any]]()
        for i in range(number):
            width, height = map(int, draw.integers(60, 420, 2))
            Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
            for _ in range(0 if i % 5 == 4 else int(draw.integers(1, 7))):
                polygons = [star(width, height, draw) for _ in range(1 + int(draw.random() < 0.3))]
                code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
                crowd = draw.random() < 0.2
                objects.append(
                    {"id": len(objects) + 1, "image_id": i, "category_id": int(draw.integers(CLASSES))}
                    | {"iscrowd": int(crowd), "bbox": coco_mask.toBbox(code).tolist()}
                    | {"area": float(coco_mask.area(code)), "segmentation": runs_of(code) if crowd else polygons}
                )
        categories = [{"id": kind, "name": f"class{kind}"} for kind in range(CLASSES)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def star(width: int, height: int, draw: np.random.Generator) -> list[float]:
    corners = np.sort(draw.uniform(0, 2 * np.pi, 9))
    reach = draw.uniform(0.03, 0.5) * min(width, height) * draw.uniform(0.5, 1, 9)
    points = (
        draw.uniform(0.2, 0.8, 2) * (width, height) + np.stack([np.cos(corners), np.sin(corners)], 1) * reach[:, None]
    )
    return np.clip(points, 0, (width, height)).round(2).ravel().tolist()


def runs_of(code: Any) -> dict[str, Any]:
    """As COCO writes crowds: lengths that are not compressed."""
    line = np.concatenate([[0], coco_mask.decode(code).ravel(order="F"), [0]]).astype(int)
    changes = np.flatnonzero(np.diff(line))
    return {"size": code["size"], "counts": np.diff(changes, prepend=0, append=np.prod(code["size"])).tolist()}


def batches(root: Path, **settings: Any) -> list[Batch]:
    given = {"batch_size": 5, "image_size": SQUARE, "num_workers": 0, "device": "cpu", "timeout": 60} | settings
    named = {split: {"annotations": f"{split}.json", "images": split} for split in ("train", "val")}
    return list(CocoBoxes(root=str(root), instance_masks=True, **named, **given).eval_batches("val"))


def predictions(batch: Batch) -> Batch:
    """Each object three times, by some pixels of the square down and across; some masks reach into the grey."""
    moves, noise = [(1, -1), (2, 3), (40, 50)], torch.Generator().manual_seed(int(batch["index"][0]))
    boxes = torch.cat([batch["boxes"] + torch.tensor([across, down] * 2) for down, across in moves], 1)
    return {
        "boxes": boxes.clamp(0, SQUARE),
        "box_label": torch.cat([batch["box_label"]] * 3, 1),
        "box_valid": torch.cat([batch["box_valid"]] * 3, 1),
        "box_score": torch.rand(boxes.shape[:2], generator=noise).mul(1e4).round() / 1e4,  # predict writes 6 digits
        "instance_mask": torch.cat([batch["instance_mask"].roll(move, (-2, -1)) for move in moves], 1),
    }


def measured(pairs: list[tuple[Batch, Batch]], measure: str = "both") -> dict[str, float]:
    metrics = Detection(num_classes=CLASSES, measure=measure).metrics()
    for found, batch in pairs:
        metrics.update(inside(found, batch), batch)
    return metrics.compute()


def pairs_of(root: Path, **settings: Any) -> list[tuple[Batch, Batch]]:
    return [(predictions(batch), batch) for batch in batches(root, **settings)]


def written(pairs: list[tuple[Batch, Batch]]) -> list[dict[str, Any]]:
    """The rows of predictions_coco.json."""
    rows = []
    for found, batch in pairs:
        for row, (index, size) in enumerate(zip(batch["index"].tolist(), batch["image_size"].tolist())):
            alone = {name: values[row] for name, values in found.items()}
            objects = found_in(alone, (SQUARE, SQUARE), size, letterboxed=True)
            rows += as_coco(objects, index, f"{index}.png", "abc")
    return [one | {"category_id": one["category_id"] - 1} for one in rows]


def pycocotools(root: Path, rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    if kind == "segm":  # with boxes it would take their areas for those of the masks
        rows = [{name: value for name, value in one.items() if name != "bbox"} for one in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO(str(root / "val.json"))
        evaluation = COCOeval(real, real.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in NAMES.items()}


@pytest.mark.parametrize("settings", [{}, {"cache": "ram", "cache_size": SQUARE}], ids=["files", "resized cache"])
def test_ap_of_masks_is_pycocotools_on_the_files_and_on_what_predict_writes(
    root: Path, settings: dict[str, Any]
) -> None:
    pairs = pairs_of(root, **settings)
    rows = written(pairs)
    expected = pycocotools(root, rows, "segm")
    boxes = {f"box_{name}": value for name, value in pycocotools(root, rows, "bbox").items()}
    assert measured(pairs) == pytest.approx(expected | boxes, abs=1e-6)
    assert 0.1 < expected["map"] < 0.9 and abs(expected["map"] - boxes["box_map"]) > 1e-2


def test_in_the_square_the_ap_of_masks_would_be_another(root: Path) -> None:
    """The control: with what the square has, without the files' sizes; and with outlines that were made smaller."""
    pairs = pairs_of(root)
    whole = measured(pairs, "masks")
    for entries in (("instance_runs", "image_size"), ("instance_runs",)):
        less = [
            (found, {name: values for name, values in real.items() if name not in entries}) for found, real in pairs
        ]
        assert abs(measured(less, "masks")["map"] - whole["map"]) > 1e-3


def test_ranks_measure_the_masks_of_files_as_one_process_does(root: Path, tmp_path: Path) -> None:
    pairs = pairs_of(root)

    def on_a_rank() -> dict[str, float]:
        return measured(pairs[collectives.rank() :: 2])

    whole = measured(pairs)
    assert all(values == whole for values in on_ranks(tmp_path / "ranks", 2, on_a_rank))


@pytest.mark.parametrize("size", [(40, 60), (80, 120), (97, 31), (13, 200), (20, 30)])
def test_the_part_with_an_object_is_resized_and_packed_as_the_whole_mask(size: tuple[int, int]) -> None:
    draw, masks = np.random.default_rng(0), []
    for _ in range(30):
        picture = Image.new("1", (60, 40))
        left, top = draw.integers(-20, 50, 2)
        ImageDraw.Draw(picture).ellipse((left, top, left + draw.integers(1, 60), top + draw.integers(1, 50)), fill=1)
        masks.append(np.array(picture))
    masks += [np.zeros((40, 60), bool), np.ones((40, 60), bool), draw.random((40, 60)) < 0.5]
    pixels = torch.from_numpy(np.stack(masks))
    smooth = torch.nn.functional.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False)[0] >= 0.5
    whole = coco_mask.encode(np.asfortranarray(smooth.permute(1, 2, 0).numpy(), np.uint8))
    codes = codes_from(regions_of(pixels.numpy(), size), size)
    assert [one["counts"] for one in codes] == [one["counts"].decode() for one in whole]
