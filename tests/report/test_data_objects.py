"""The anchors that a survey proposes fit the boxes that it has seen."""

from typing import Any

import numpy as np

from plainloop.data.survey.look import Looked, Objects
from plainloop.report.data_objects import anchors_of, object_lines, overlaps


def test_anchors_of_nine_kinds_of_boxes_are_these_kinds() -> None:
    kinds = np.array([[w * size, (4 - w) * size] for size in (4, 16, 64) for w in (1, 2, 3)], float)
    draw = np.random.default_rng(0)
    boxes = draw.permutation(np.repeat(kinds, 30, 0) + draw.choice([-0.2, 0, 0.2], (270, 2)))
    anchors, overlap = anchors_of(boxes)
    assert sorted(map(tuple, anchors)) == sorted(map(tuple, kinds))
    assert overlap > 0.95
    assert np.array_equal(anchors.prod(1), np.sort(anchors.prod(1)))


def test_the_proposed_anchors_fit_better_than_cocos() -> None:
    boxes = np.random.default_rng(1).uniform(3, 60, (400, 2))
    coco = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)]
    anchors, overlap = anchors_of(boxes)
    assert overlap > overlaps(boxes, np.array(coco, float)).max(1).mean() + 0.1
    assert overlap == overlaps(boxes, anchors).max(1).mean()


def looked_at(sides: list[tuple[float, float]]) -> list[Any]:
    boxes = np.array([(5, 5, 5 + w, 5 + h) for w, h in sides], np.float32)
    none = np.zeros(len(sides), np.bool_)
    area = boxes[:, 2] * boxes[:, 3]
    objects = Objects(boxes=boxes, label=np.zeros(len(sides), np.int64), crowd=none, difficult=none, area=area)
    return [Looked("train", "1.jpg", 0, width=100, height=100, objects=objects)]


def test_boxes_below_2_pixels_give_no_anchors() -> None:
    tiny, wide = [(1.0, 1.0)] * 40, [(10.0 + 3 * k, 20.0) for k in range(9)]
    lines = list(object_lines(looked_at(tiny), ["train"], None))
    assert not [line for line in lines if "anchors" in line]
    assert "              40 are less than 2 pixels wide or high: no model finds those" in lines
    assert (
        list(object_lines(looked_at(tiny + wide), ["train"], None))[-2:]
        == (list(object_lines(looked_at(wide), ["train"], None))[-2:])
    )
