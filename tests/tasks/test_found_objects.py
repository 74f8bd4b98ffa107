"""What a model found in a prepared image goes back to the pixels of the file, and into COCO's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from plainloop.contracts import Sample
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.digit_boxes import DigitBoxes
from plainloop.data.boxes.voc import VocBoxes
from plainloop.tasks.boxes.found import as_coco, found_in


def result(*boxes: tuple[float, ...], valid: int | None = None, masks: torch.Tensor | None = None) -> Sample:
    """Detections with the classes 0, 1, ... and the scores 0.9, 0.8, ..."""
    number = len(boxes)
    found = {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "box_label": torch.arange(number),
        "box_score": 0.9 - 0.1 * torch.arange(number),
        "box_valid": torch.arange(number) < (number if valid is None else valid),
    }
    return found if masks is None else found | {"instance_mask": masks}


@pytest.mark.parametrize(
    ("size", "seen", "letterboxed", "in_file"),
    [
        ((100, 200), (50, 50), True, [40, 20, 80, 60]),  # a quarter of its size, grey below
        ((200, 100), (50, 50), True, [40, 20, 80, 60]),  # grey to the right
        ((100, 200), (50, 50), False, [40, 10, 80, 30]),  # each side by its own factor
        ((50, 60), (50, 60), False, [10, 5, 20, 15]),  # as it is
        ((20, 25), (50, 50), True, [5, 2.5, 10, 7.5]),  # enlarged
    ],
)
def test_a_box_goes_back_to_the_pixels_of_the_file(
    size: tuple[int, int], seen: tuple[int, int], letterboxed: bool, in_file: list[float]
) -> None:
    found = found_in(result((10.0, 5, 20, 15)), seen, size, letterboxed=letterboxed)
    assert found.boxes.tolist() == [in_file]


@pytest.mark.parametrize("source", [CocoBoxes, VocBoxes, DigitBoxes])
def test_what_is_seen_where_a_source_puts_it_is_found_where_it_was(source: Any) -> None:
    image = torch.zeros(3, 120, 200, dtype=torch.uint8)
    image[:, 30:60, 80:120] = 255
    preprocessing = source.preprocessing(batch_size=1, **({} if source is DigitBoxes else {"root": "gone"}))
    prepared = preprocessing.prepare(image)
    rows, columns = (prepared[0] > 150).any(1).nonzero(), (prepared[0] > 150).any(0).nonzero()
    seen = (float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)
    found = found_in(result(seen), prepared.shape[-2:], image.shape[-2:], letterboxed=preprocessing.letterboxed)
    assert (
        np.abs(found.boxes - [80, 30, 120, 60]).max() < 0.5
    )  # whole pixels of an image of twice the size, or the same


def test_boxes_end_with_the_file_and_what_lies_in_the_grey_is_gone() -> None:
    boxes = [(-5.0, 0, 10, 30), (40, 30, 60, 45), (30, 20, 60, 60), (1, 1, 2, 2)]
    found = found_in(result(*boxes, valid=3), (50, 50), (50, 100), letterboxed=True)
    assert found.boxes.tolist() == [[0, 0, 20, 50], [60, 40, 100, 50]]
    assert found.labels.tolist() == [0, 2]


def test_the_best_object_is_the_first() -> None:
    detections = result((0.0, 0, 2, 2), (1, 1, 3, 3), (2, 2, 4, 4))
    detections["box_score"] = torch.tensor([0.2, 0.7, 0.5])
    found = found_in(detections, (8, 8), (8, 8), letterboxed=False)
    assert found.labels.tolist() == [1, 2, 0]
    assert found.boxes[0].tolist() == [1, 1, 3, 3]


def test_a_mask_has_the_size_of_the_file_and_none_of_the_grey() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 1:3, 2:6] = True
    mask[0, 4:] = True  # below the image
    found = found_in(result((2.0, 1, 6, 3), masks=mask), (8, 8), (16, 32), letterboxed=True)
    expected = np.zeros((16, 32), bool)
    expected[4:12, 8:24] = True
    differs = found.mask(0) != expected
    corners = np.zeros_like(expected)
    for row in (4, 11):
        corners[row, [8, 23]] = True
    assert not (differs & ~corners).any()  # smooth edges round the corners


def test_pycocotools_reads_the_results_with_the_list_of_the_images(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 20, 30, generator=noise) < 0.3
    found = found_in(result((1.0, 2, 8, 9), (3, 3, 10, 20), masks=masks), (20, 30), (20, 30), letterboxed=False)
    nothing = found_in(result(), (20, 30), (20, 30), letterboxed=False)
    rows = as_coco(found, 1, "a.jpg", ("cat", "dog")) + as_coco(nothing, 2, "b.jpg", ("cat", "dog"))
    images = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for name, value in {"images": images, "results": rows}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    read = COCO(tmp_path / "images.json").loadRes(str(tmp_path / "results.json"))
    assert [row["bbox"] for row in read.loadAnns(read.getAnnIds(1))] == [[1, 2, 7, 7], [3, 3, 7, 17]]
    assert (
        [row["category"] for row in rows] == [read.cats[row["category_id"]]["name"] for row in rows] == ["cat", "dog"]
    )
    assert [row["file_name"] for row in rows] == ["a.jpg", "a.jpg"] and not read.getAnnIds(2)
    back = [coco_mask.decode(row["segmentation"]).astype(bool) for row in rows]
    assert np.array_equal(back, masks.numpy())
