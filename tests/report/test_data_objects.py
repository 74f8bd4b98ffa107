"""The anchors that a survey proposes fit the boxes that it has seen."""

import numpy as np

from plainloop.report.data_objects import anchors_of, overlaps


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
