"""What an evaluation keeps of images with boxes: the same for any number of ranks, small, with instances as one map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.loop.evaluation.collect import Collector
from plainloop.loop.evaluation.worst import numbered
from plainloop.tasks.boxes.matches import mistakes
from plainloop.tasks.detection import Detection
from tests.harness.ranks import on_ranks
from tests.harness.tensors import equal
from tests.tasks.test_detection import CLASSES, batches_of, with_masks

PAIRS = with_masks(batches_of([0, 5, 10]))


def kept(pairs: list[tuple[Batch, Batch]]) -> dict[str, Any]:
    collector = Collector(Detection(num_classes=CLASSES, measure="coco"))
    for found, real in pairs:
        collector.metrics.update(found, real)
        collector.add(found, real, torch.full((len(real["index"]), 3, 200, 200), 7, dtype=torch.uint8))
    collector.metrics.compute()
    collected = collector.collected()
    return {**vars(collected), "rows": collected.rows.nan_to_num(nan=-7), "details": repr(collected.details)}


def test_any_number_of_ranks_keeps_the_same(tmp_path: Path) -> None:
    whole = kept(PAIRS)
    for found in on_ranks(tmp_path / "ranks", 2, lambda: kept(PAIRS[collectives.rank() :: 2])):
        assert equal(found, whole)
    assert whole["rows"][:, 0].tolist() == list(range(15))


def test_the_images_with_the_most_mistakes_are_kept_with_their_boxes() -> None:
    worst = kept(PAIRS)["worst"]
    every = torch.cat([mistakes(*pair) for pair in PAIRS])
    assert worst["index"].tolist() == every.argsort(descending=True, stable=True)[:12].tolist()
    first = int(worst["index"][0])
    boxes = PAIRS[first // 5][1]["boxes"][first % 5]
    assert torch.equal(worst["boxes"][0, : len(boxes)], boxes)
    assert worst["instances"].shape == worst["predicted_instances"].shape == (12, 200, 200)


def test_a_pixel_has_the_number_of_the_first_object_there() -> None:
    masks = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    masks[0, 1, :2], masks[0, 2, 1:] = True, True
    assert numbered(masks, (4, 4))[0, :, 0].tolist() == [2, 2, 3, 3]
    assert numbered(masks, (2, 2))[0, :, 0].tolist() == [2, 3]
    assert numbered(masks[:, :0], (4, 4)).sum() == 0
