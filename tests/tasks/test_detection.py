"""Average precision of boxes and masks is pycocotools', for any number of ranks."""

import contextlib
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.errors import BadConfig, BadData
from plainloop.models.detection.yolov3 import YOLOv3
from plainloop.tasks.average_precision import AveragePrecision
from plainloop.tasks.detection import Detection
from plainloop.tasks.voc_precision import VocPrecision
from tests.harness.configs import checked
from tests.harness.ranks import on_ranks
from tests.harness.tensors import HostRead, NoHostReads

CLASSES = 4  # no object has the last one
SIZE = 200
COCO_NAMES = {0: "map", 1: "map50", 2: "map75", 3: "map_small", 4: "map_medium", 5: "map_large", 8: "mar"}


def drawn_boxes(number: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(number, 2, generator=generator) * SIZE * 0.7
    sides = 4 + torch.rand(number, 2, generator=generator) ** 2 * SIZE * 0.6
    return torch.cat([corners, (corners + sides).clamp(max=SIZE)], dim=1).float()


def padded(rows: list[dict[str, torch.Tensor]]) -> Batch:
    longest = max(len(row["boxes"]) for row in rows)
    batch: Batch = {}
    for name in rows[0]:
        parts = [
            torch.cat([row[name], row[name].new_zeros(longest - len(row[name]), *row[name].shape[1:])]) for row in rows
        ]
        batch[name] = torch.stack(parts)
    valid = [torch.arange(longest) < len(row["boxes"]) for row in rows]
    return batch | {"box_valid": torch.stack(valid)}


def pair_of(first: int, num: int, *, seed: int = 0, crowds: bool = True) -> tuple[Batch, Batch]:
    """Detections that find most objects, some of them twice, and the objects; some images lack either."""
    found, real = [], []
    for index in range(first, first + num):
        generator = torch.Generator().manual_seed(seed * 1000 + index)
        count = int(torch.randint(0, 7, (), generator=generator)) * (index % 5 != 3)
        boxes, label = drawn_boxes(count, generator), torch.randint(0, CLASSES - 1, (count,), generator=generator)
        crowd = (torch.rand(count, generator=generator) < 0.25) & crowds
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * (0.5 + 0.5 * torch.rand(count, generator=generator))
        real.append({"boxes": boxes, "box_label": label, "box_crowd": crowd, "box_area": area})
        shaken = [boxes + 6 * torch.randn(count, 4, generator=generator) for _ in range(2)]
        made = torch.cat([*shaken, drawn_boxes(3, generator)])
        made = torch.cat([torch.minimum(made[:, :2], made[:, 2:]), torch.maximum(made[:, :2], made[:, 2:]) + 1], 1)
        labels = torch.cat([label, label, torch.randint(0, CLASSES, (3,), generator=generator)])
        score = torch.rand(len(made), generator=generator)
        kept = torch.arange(len(made)) < (0 if index % 7 == 6 else len(made))
        found.append({"boxes": made[kept], "box_label": labels[kept], "box_score": score[kept]})
    return padded(found), padded(real) | {"index": torch.arange(first, first + num)}


def batches_of(starts: list[int], num: int = 5) -> list[tuple[Batch, Batch]]:
    return [pair_of(start, num) for start in starts]


def measured(make: Callable[[], Any], pairs: list[tuple[Batch, Batch]]) -> dict[str, float]:
    metrics = make()
    for prediction, batch in pairs:
        metrics.update(prediction, batch)
    values: dict[str, float] = metrics.compute()
    return values


def pycocotools(pairs: list[tuple[Batch, Batch]], *, masks: bool = False) -> dict[str, float]:
    """Of images in their own size."""
    annotations, found, images = [], [], []
    for prediction, batch in pairs:
        for row, index in enumerate(batch["index"].tolist()):
            images.append({"id": index, "height": SIZE, "width": SIZE})
            for one, into in ((prediction, found), (batch, annotations)):
                for i in range(int(one["box_valid"][row].sum())):
                    x0, y0, x1, y1 = one["boxes"][row, i].double().tolist()
                    entry = {
                        "image_id": index,
                        "category_id": int(one["box_label"][row, i]),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                    }
                    if masks:
                        pixels = one["instance_mask"][row, i].numpy()
                        entry["segmentation"] = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
                    if into is found:
                        entry["score"] = float(one["box_score"][row, i])
                        if masks:
                            del entry["bbox"]  # pycocotools would take its area for that of the mask
                    else:
                        entry |= {
                            "id": len(into) + 1,
                            "iscrowd": int(one["box_crowd"][row, i]),
                            "area": float(one["box_area"][row, i]),
                        }
                    into.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i} for i in range(CLASSES)],
            "info": {},
        }
        real.createIndex()
        evaluation = COCOeval(real, real.loadRes(found), "segm" if masks else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    values = {name: float(evaluation.stats[number]) for number, name in COCO_NAMES.items()}
    return values | {f"ap/{number}": float(np.mean(precision[:, :, number])) for number in range(CLASSES)}


def coco() -> AveragePrecision:
    return AveragePrecision(CLASSES, names=[str(number) for number in range(CLASSES)])


def as_coco_says(values: dict[str, float]) -> dict[str, float]:
    return {name: -1.0 if math.isnan(value) else value for name, value in values.items()}


def test_average_precision_is_that_of_pycocotools_with_crowds_and_images_without_objects_and_an_absent_class() -> None:
    pairs = batches_of([0, 5, 10, 15, 20])
    ours = as_coco_says(measured(coco, pairs))
    assert ours == pytest.approx(pycocotools(pairs), abs=1e-6)
    assert ours["ap/3"] == -1.0 and 0.05 < ours["map"] < 0.95
    as_objects = [(prediction, batch | {"box_crowd": batch["box_crowd"] & False}) for prediction, batch in pairs]
    assert as_coco_says(measured(coco, as_objects)) != pytest.approx(ours, abs=1e-6)  # crowds count for something


def test_average_precision_of_masks_and_boxes_together_is_that_of_pycocotools() -> None:
    pairs = with_masks(batches_of([0, 5, 10]))
    ours = as_coco_says(measured(both, pairs))
    boxes = {f"box_{name}": value for name, value in pycocotools(pairs).items()}
    assert ours == pytest.approx(pycocotools(pairs, masks=True) | boxes, abs=1e-6)
    assert ours["map"] != pytest.approx(ours["box_map"], abs=1e-3)
    alone = measured(lambda: AveragePrecision(CLASSES, kinds=("masks",)), pairs)
    assert as_coco_says(alone).items() <= ours.items()


def both() -> AveragePrecision:
    return AveragePrecision(CLASSES, names=[str(number) for number in range(CLASSES)], kinds=("masks", "boxes"))


def with_masks(pairs: list[tuple[Batch, Batch]]) -> list[tuple[Batch, Batch]]:
    return [
        (one | {"instance_mask": filled(one["boxes"])}, other | {"instance_mask": filled(other["boxes"])})
        for one, other in pairs
    ]


def filled(boxes: torch.Tensor) -> torch.Tensor:
    """Ellipses in boxes (B, N, 4): (B, N, SIZE, SIZE) bool."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    x0, y0, x1, y1 = (boxes[..., i, None, None] for i in range(4))
    return ((2 * x - x0 - x1) / (x1 - x0).clamp(min=1)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0).clamp(min=1)) ** 2 <= 1


@pytest.mark.parametrize("make", [coco, both, lambda: VocPrecision(CLASSES, names="abcd")], ids=["coco", "both", "voc"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_measures_what_one_process_does(
    make: Callable[[], Any], world_size: int, tmp_path: Path
) -> None:
    def on_a_rank() -> dict[str, float]:
        return measured(make, pairs[collectives.rank() :: world_size])

    pairs = scaled(with_masks(batches_of([0, 5, 10, 15, 20])))
    whole = measured(make, pairs)
    for values in on_ranks(tmp_path / "ranks", world_size, on_a_rank):
        assert as_coco_says(values) == as_coco_says(whole)
    assert as_coco_says(measured(make, pairs[:3])) != as_coco_says(whole)


def scaled(pairs: list[tuple[Batch, Batch]]) -> list[tuple[Batch, Batch]]:
    """The same in images of twice the size of their files."""
    changed = []
    for pair in pairs:
        found, real = (one | {"boxes": one["boxes"] * 2} for one in pair)
        for one in (found, real):
            if "instance_mask" in one:
                one["instance_mask"] = one["instance_mask"].repeat_interleave(2, -2).repeat_interleave(2, -1)
        number = len(real["index"])
        file = {"image_scale": torch.full((number,), 2.0), "image_size": torch.full((number, 2), SIZE)}
        changed.append((found, real | file))
    return changed


def test_boxes_and_masks_are_measured_in_pixels_of_the_files() -> None:
    pairs = with_masks(batches_of([0, 5, 10]))
    whole = as_coco_says(measured(both, pairs))
    there = as_coco_says(measured(both, scaled(pairs)))
    assert there == whole
    unscaled = [
        (found, {name: t for name, t in real.items() if not name.startswith("image_")}) for found, real in scaled(pairs)
    ]
    assert as_coco_says(measured(both, unscaled)).items() != whole.items()


def test_the_area_of_an_object_is_that_of_its_box_or_of_its_mask_where_the_data_give_none() -> None:
    """An L of 56 x 56 pixels has a box of a medium object, and pixels of a small one."""
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :56, :4] = mask[..., 52:56, :56] = True
    objects = {"boxes": torch.tensor([[[0.0, 0, 56, 56]]]), "box_label": torch.zeros(1, 1, dtype=torch.int64)}
    batch = objects | {
        "box_valid": torch.ones(1, 1, dtype=torch.bool),
        "instance_mask": mask,
        "index": torch.tensor([0]),
    }
    values = measured(
        lambda: AveragePrecision(1, kinds=("masks", "boxes")), [(batch | {"box_score": torch.ones(1, 1)}, batch)]
    )
    assert (values["map_small"], values["box_map_medium"]) == (1.0, 1.0)
    assert math.isnan(values["map_medium"]) and math.isnan(values["box_map_small"])


@pytest.mark.parametrize("make", [coco, lambda: VocPrecision(CLASSES)], ids=["coco", "voc"])
def test_counting_a_batch_does_not_wait_for_the_device(make: Callable[[], Any]) -> None:
    metrics, (prediction, batch) = make(), pair_of(0, 5)
    with NoHostReads():
        metrics.update(prediction, batch)
    with NoHostReads(), pytest.raises(HostRead):
        metrics.update(prediction | {"boxes": prediction["boxes"] * prediction["box_score"].max().item()}, batch)


def test_without_any_image_there_is_nothing_to_measure() -> None:
    assert math.isnan(measured(lambda: VocPrecision(2), [])["map"])
    assert math.isnan(measured(coco, [])["map"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "task.num_classes=0 must be 1 or more"),
        ({"losses": {"size": -1.0}}, "task.losses.size=-1.0 must be 0 or more"),
        ({"measure": "pascal"}, "task.measure='pascal' must be one of coco, masks, both, voc, voc_11"),
        ({"per_class": True, "class_names": ["a"]}, "task.per_class=true needs 2 names"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Detection(**{"num_classes": 2} | settings)


def test_a_loss_of_the_model_is_weighed_as_the_page_says_and_another_name_is_told_with_those_that_are_there() -> None:
    typed = ("task=detection", "data=digit_boxes", "model=yolov3", "model.backbone=tiny", "data.image_size=96")
    for written in ("task.losses={size:0.5}", "+task.losses.size=0.5"):
        assert checked(*typed, written)["task"]["losses"] == {"size": 0.5}
    batch = {"image": torch.zeros(1, 3, 64, 64)} | batches_of([0], 1)[0][1]
    task = Detection(num_classes=2, losses={"siz": 0.5})
    with pytest.raises(BadConfig, match="the model has no siz; it has centre, size, objectness, class"):
        task.loss(YOLOv3(num_classes=CLASSES, backbone="tiny"), batch)


def test_data_without_masks_are_told_what_to_type_where_masks_are_measured() -> None:
    boxes: Batch = {"image": torch.zeros(1, 3, 8, 8), "boxes": torch.zeros(1, 1, 4)}
    with pytest.raises(BadData, match=r"task.measure=both measures masks .* only boxes") as told:
        Detection(num_classes=2, measure="both").loss(torch.nn.Identity(), boxes)
    assert told.value.hint.startswith("type data.instance_masks=true; or task=detection")
