"""VOC's average precision is that of its development kit."""

import math

import pytest
import torch

from plainloop.contracts import Batch
from plainloop.tasks.voc_precision import VocPrecision, precision_of
from tests.tasks.test_detection import CLASSES, as_coco_says, batches_of, measured


def test_precision_of_voc_is_the_area_or_eleven_points_below_the_best_precision() -> None:
    right = [True, True, False, True, False, False, True, False]
    # Recalls 1/5, 2/5, 3/5, 4/5 are reached with best precisions 1, 1, 3/4, 4/7.
    assert precision_of(right, 5, "area") == pytest.approx((1 + 1 + 3 / 4 + 4 / 7) / 5)
    assert precision_of(right, 5, "11") == pytest.approx((5 * 1 + 2 * 3 / 4 + 2 * 4 / 7) / 11)
    assert precision_of([], 3, "area") == precision_of([], 3, "11") == 0.0


def slow_voc(pairs: list[tuple[Batch, Batch]]) -> dict[str, float]:
    """The development kit's VOCevaldet, class by class and detection by detection, without its extra pixel."""
    values = {}
    for label in range(CLASSES):
        objects, found = {}, []
        for prediction, batch in pairs:
            for row, index in enumerate(batch["index"].tolist()):
                chosen = batch["box_valid"][row] & (batch["box_label"][row] == label)
                boxes, hard = batch["boxes"][row][chosen].double(), batch["box_difficult"][row][chosen]
                objects[index] = [[*box, bool(one), False] for box, one in zip(boxes.tolist(), hard, strict=True)]
                chosen = prediction["box_valid"][row] & (prediction["box_label"][row] == label)
                scores, boxes = prediction["box_score"][row][chosen], prediction["boxes"][row][chosen].double()
                found += [(-float(score), index, box) for score, box in zip(scores, boxes.tolist(), strict=True)]
        right = []
        for _, index, box in sorted(found, key=lambda one: one[0]):
            best, overlap = None, 0.0
            for one in objects[index]:
                width, height = min(box[2], one[2]) - max(box[0], one[0]), min(box[3], one[3]) - max(box[1], one[1])
                shared = width * height if width > 0 and height > 0 else 0.0
                both = (box[2] - box[0]) * (box[3] - box[1]) + (one[2] - one[0]) * (one[3] - one[1]) - shared
                if shared / both > overlap:
                    best, overlap = one, shared / both
            if best is None or overlap < 0.5:
                right.append(False)
            elif not best[4]:
                right.append(not best[5])
                best[5] = True
        number = sum(not one[4] for image in objects.values() for one in image)
        values[f"ap/{label}"] = precision_of(right, number, "area") if number else math.nan
    met = [value for value in values.values() if not math.isnan(value)]
    return {"map": math.fsum(met) / len(met)} | values


def test_precision_of_voc_is_that_of_a_slow_reference() -> None:
    pairs = [(found, real | {"box_difficult": real["box_crowd"]}) for found, real in batches_of([0, 5, 10, 15, 20])]
    ours = measured(lambda: VocPrecision(CLASSES, names="0123"), pairs)
    assert as_coco_says(ours) == as_coco_says(slow_voc(pairs))
    easy = [(found, real | {"box_difficult": real["box_crowd"] & False}) for found, real in pairs]
    assert as_coco_says(slow_voc(easy)) != as_coco_says(slow_voc(pairs))


def test_voc_counts_a_difficult_object_neither_as_found_nor_as_missed() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 80, 80]]])
    batch = {
        "boxes": box,
        "box_label": torch.zeros(1, 2, dtype=torch.int64),
        "box_valid": torch.ones(1, 2, dtype=torch.bool),
    }
    found = batch | {"box_score": torch.tensor([[0.9, 0.8]])}
    batch = batch | {"index": torch.tensor([0]), "box_difficult": torch.tensor([[True, False]])}
    assert measured(lambda: VocPrecision(1), [(found, batch)]) == {"map": 1.0}
    missed = {name: tensor[:, :1] for name, tensor in found.items()}
    assert measured(lambda: VocPrecision(1), [(missed, batch)]) == {"map": 0.0}
    plainly = batch | {"box_difficult": torch.tensor([[False, False]])}
    assert measured(lambda: VocPrecision(1), [(missed, plainly)]) == {"map": 0.5}
