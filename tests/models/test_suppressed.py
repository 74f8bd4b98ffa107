"""The suppression that a graph can hold gives what the model's own gives, image by image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from plainloop.contracts import Batch
from plainloop.models.detection.boxes import as_batch, suppressed

SIZE, CLASSES, IMAGES, CANDIDATES, MOST = (40, 60), 5, 3, 80, 30


def candidates(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of whole pixels, so that laying them side by side changes no digit; scores that all differ, best first."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.stack([torch.randint(0, side, (IMAGES, CANDIDATES), generator=draw) for side in SIZE[::-1]], dim=-1)
    ends = (corner + torch.randint(0, 25, corner.shape, generator=draw)).minimum(torch.tensor(SIZE[::-1]))
    labels = torch.randint(0, CLASSES, (IMAGES, CANDIDATES), generator=draw)
    scores = torch.rand(IMAGES, CANDIDATES, generator=draw).sort(dim=1, descending=True).values
    return torch.cat([corner, ends], dim=-1).float(), labels, scores


def one_by_one(boxes: Tensor, labels: Tensor, scores: Tensor, *, max_iou: float, least_score: float) -> Batch:
    found = []
    for box, label, score in zip(boxes, labels, scores, strict=True):
        sure = score > least_score
        kept = batched_nms(box[sure], score[sure], label[sure], max_iou)[:MOST]
        found.append((box[sure][kept], label[sure][kept], score[sure][kept]))
    return as_batch(found, MOST)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least_score", [0.0, 0.7])
def test_images_and_classes_side_by_side_are_suppressed_as_each_alone(seed: int, least_score: float) -> None:
    given = candidates(seed)
    expected = one_by_one(*given, max_iou=0.45, least_score=least_score)
    how = {"size": SIZE, "num_classes": CLASSES, "most": MOST, "least_score": least_score}
    found = suppressed(*given, max_iou=0.45, **how)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["box_valid"].all() == (least_score == 0)  # one case is cut at MOST, the other is padded to it
    other = suppressed(*given, max_iou=0.1, **how)
    assert not torch.equal(other["boxes"], expected["boxes"])


def test_a_single_box_and_no_sure_box_are_found_as_well() -> None:
    boxes, labels, scores = (
        torch.tensor([[[1.0, 2, 3, 4]] * 2] * 2),
        torch.zeros(2, 2).long(),
        torch.tensor([[0.9, 0.8], [0.1, 0.0]]),
    )
    found = suppressed(boxes, labels, scores, size=SIZE, num_classes=1, least_score=0.2, max_iou=0.5, most=2)
    assert found["box_valid"].tolist() == [[True, False], [False, False]]
    assert found["boxes"][0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
