"""Which objects count as found, and why a detection is wrong: against the rule written plainly, one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.tasks.boxes.details import of_classes, precision_curves
from plainloop.tasks.boxes.matches import (
    AGAIN,
    BADLY_PLACED,
    LEFT_OUT,
    NOTHING_THERE,
    RIGHT,
    WRONG_CLASS,
    Matches,
    matches_of,
    mistakes,
)
from plainloop.tasks.details import Details
from plainloop.tasks.detection import Detection
from tests.harness.ranks import on_ranks
from tests.harness.tensors import NoHostReads
from tests.tasks.test_detection import CLASSES, batches_of, pair_of, with_masks

PAIRS = batches_of([0, 5, 10, 15, 20, 25])
NAMES = ("ant", "bee", "cat", "dog")


def iou_of(one: Any, other: Any) -> tuple[float, float]:
    """Intersection over union, and the share of the first that is inside the second."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared), shared / areas[0]


def plainly(found: Batch, real: Batch, row: int) -> tuple[dict[int, int], dict[int, int]]:
    """The kind of each valid detection, and which object is found by which detection: one detection after another."""
    objects = [i for i in range(real["boxes"].shape[1]) if real["box_valid"][row, i]]
    kinds: dict[int, int] = {}
    found_by: dict[int, int] = {}
    for d in found["box_score"][row].argsort(descending=True, stable=True).tolist():
        if not found["box_valid"][row, d]:
            continue
        box, label = found["boxes"][row, d].tolist(), int(found["box_label"][row, d])
        with_all = {i: iou_of(box, real["boxes"][row, i].tolist()) for i in objects}
        counted = [i for i in objects if not real["box_crowd"][row, i]]
        own = [i for i in counted if real["box_label"][row, i] == label]
        crowds = [i for i in objects if i not in counted and real["box_label"][row, i] == label]
        best = max(own, key=lambda i: with_all[i][0], default=-1)
        at = with_all[best][0] if own else 0.0
        if at >= 0.5 and best not in found_by:
            kinds[d], found_by[best] = RIGHT, d
        elif any(with_all[i][1] >= 0.5 for i in crowds):
            kinds[d] = LEFT_OUT
        elif at >= 0.5:
            kinds[d] = AGAIN
        elif any(with_all[i][0] >= 0.5 for i in counted):
            kinds[d] = WRONG_CLASS
        else:
            kinds[d] = BADLY_PLACED if at >= 0.1 else NOTHING_THERE
    return kinds, found_by


def test_each_detection_is_what_the_rule_says() -> None:
    seen = set()
    for found, real in PAIRS:
        matches = matches_of(found, real)
        for row in range(len(real["index"])):
            kinds, found_by = plainly(found, real, row)
            valid = found["box_valid"][row]
            assert {d: int(matches.kind[row, d]) for d in range(len(valid)) if valid[d]} == kinds
            hits = {i: int(d) for i, d in enumerate(matches.found_by[row]) if d < len(valid)}
            assert hits == found_by
            seen |= set(kinds.values())
    assert seen == {RIGHT, WRONG_CLASS, AGAIN, BADLY_PLACED, NOTHING_THERE, LEFT_OUT}


def test_the_mistakes_of_an_image_are_what_is_missed_and_what_is_invented() -> None:
    found, real = PAIRS[0]
    for row, value in enumerate(mistakes(found, real).tolist()):
        kinds, found_by = plainly(found, real, row)
        score = found["box_score"][row].tolist()
        counted = (real["box_valid"] & ~real["box_crowd"])[row].nonzero()[:, 0].tolist()
        missed = sum(1 - (score[found_by[i]] if i in found_by else 0) for i in counted)
        assert value == pytest.approx(missed + sum(score[d] for d, k in kinds.items() if k not in (RIGHT, LEFT_OUT)))


def test_surer_detections_are_judged_without_those_below() -> None:
    for found, real in PAIRS:
        sure = found | {"box_valid": found["box_valid"] & (found["box_score"] >= 0.4)}
        whole, part = matches_of(found, real), matches_of(sure, real)
        assert torch.equal(whole.kind[sure["box_valid"]], part.kind[sure["box_valid"]])
        assert torch.equal(whole.found_score >= 0.4, part.found_score >= 0.4)


def test_without_objects_or_detections_there_is_nothing_to_match() -> None:
    found, real = PAIRS[0]
    nothing = {name: tensor[:, :0] for name, tensor in found.items()}
    assert torch.equal(mistakes(nothing, real), (real["box_valid"] & ~real["box_crowd"]).sum(1).float())
    none = {name: tensor[:, :0] if name != "index" else tensor for name, tensor in real.items()}
    matches: Matches = matches_of(found, none)
    assert set(matches.kind[found["box_valid"]].tolist()) == {NOTHING_THERE}
    assert mistakes(nothing, none).tolist() == [0.0] * len(real["index"])


def test_a_difficult_object_is_neither_found_nor_missed_nor_invented() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10]]])
    one = {"boxes": box, "box_label": torch.tensor([[1]]), "box_valid": torch.tensor([[True]])}
    found = one | {"box_score": torch.tensor([[0.9]])}
    assert mistakes(found, one | {"box_difficult": torch.tensor([[True]])}).tolist() == [0.0]
    assert mistakes(found, one | {"box_label": torch.tensor([[0]])}).tolist() == [pytest.approx(1.9)]  # control


def test_matching_never_waits_for_the_device() -> None:
    with NoHostReads():
        mistakes(*PAIRS[0])


def details(pairs: list[tuple[Batch, Batch]], measure: Any = "coco") -> Details:
    metrics = Detection(num_classes=CLASSES, class_names=NAMES, measure=measure).metrics()
    for prediction, batch in pairs:
        metrics.update(prediction, batch)
    metrics.compute()
    return metrics.details()


def test_what_a_person_is_told_adds_up() -> None:
    told = details(PAIRS)
    assert told.least_score is not None
    rows, right, said = {}, 0, 0
    for found, real in PAIRS:
        for row, index in enumerate(real["index"].tolist()):
            kinds, _ = plainly(found, real, row)
            sure = [d for d, k in kinds.items() if k != LEFT_OUT and found["box_score"][row, d] >= told.least_score]
            hits = [d for d in sure if kinds[d] == RIGHT]
            objects = int((real["box_valid"] & ~real["box_crowd"])[row].sum())
            rows[index] = [objects, len(hits), objects - len(hits), len(sure) - len(hits)]
            right, said = right + len(hits), said + len(sure)
    assert {int(index): values[:4] for index, *values in told.samples} == rows
    classes, sizes, why, *_ = told.tables
    objects = sum(row[0] for row in rows.values())
    assert [sum(row[i] for row in classes.rows) for i in (1, -3, -2, -1)] == [
        objects,
        right,
        objects - right,
        said - right,
    ]
    assert [sum(row[i] for row in sizes.rows) for i in (1, 2, 5)] == [objects, right, said - right]
    assert sum(row[1] for row in why.rows) == said - right
    assert {row[0] for row in classes.rows} == set(NAMES)


@pytest.mark.parametrize("measure", ["coco", "voc"])
def test_the_curve_of_a_class_has_its_average_precision(measure: str) -> None:
    told = details(PAIRS, measure)
    classes, at_half = told.tables[0], told.curves[0]
    for name, _, precision, *_ in classes.rows:
        if precision is None:
            assert name not in at_half.lines
        else:
            mean = sum(y for _, y in at_half.lines[str(name)]) / 101
            assert mean == pytest.approx(precision, abs=1e-6 if measure == "coco" else 0.02)


@pytest.mark.parametrize("measure", ["coco", "voc"])
def test_any_number_of_ranks_tells_the_same(measure: str, tmp_path: Path) -> None:
    def on_a_rank() -> Details:
        return details(PAIRS[:2][collectives.rank() :: 3], measure)  # the last rank has nothing

    whole = details(PAIRS[:2], measure)
    for told in on_ranks(tmp_path / "ranks", 3, on_a_rank):
        assert repr(told) == repr(whole)  # NaN is not equal to itself
    assert repr(details(PAIRS[:1], measure)) != repr(whole)


def test_classes_stand_in_the_order_of_the_column_that_the_title_names() -> None:
    objects = np.array([[0, label, 9, 0.8, 1, -1, -1] for label in range(3)], float)
    half, mean = {"AP 0.5": [0.9, 0.8, 1.0]}, {"AP": [0.2, 0.7, math.nan]}
    for precisions, title, order in ((half | mean, "AP", "ant bee cat"), (half, "AP 0.5", "bee ant cat")):
        table = of_classes(objects, objects[:0, :5], 0.5, NAMES[:3], precisions)
        assert table.title == f"Classes, the lowest average precision ({title}) first"
        assert [row[0] for row in table.rows] == order.split()


def test_the_mean_of_the_curves_counts_classes_of_which_nothing_was_found() -> None:
    curves = precision_curves({"ant": [1.0, 0.5], "bee": [0.0, 0.0]}, [0.0, 1.0], overlap=0.5)
    assert curves.lines == {"mean of the classes": [(0.0, 0.5), (1.0, 0.25)], "ant": [(0.0, 1.0), (1.0, 0.5)]}


def test_a_model_that_finds_nothing_is_told_so() -> None:
    found, real = pair_of(0, 5)
    told = details([(found | {"box_valid": found["box_valid"] & False}, real)])
    assert told.about == "Nothing was detected with a score of 0.01 or more."
    assert [row[1] for row in told.samples] == [row[3] for row in told.samples]
    assert told.curves == []


@pytest.mark.parametrize("measure", ["coco", "masks", "both"])
def test_a_person_is_told_what_is_of_masks_and_what_of_boxes(measure: str) -> None:
    told = details(with_masks(PAIRS), measure)
    of_masks = measure != "coco"
    assert ("average precision (AP) and the curves are of the masks" in told.about) is of_masks
    assert [" of masks, " in one.title for one in told.curves] == [of_masks, of_masks]
