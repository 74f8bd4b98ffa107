"""Masks and boxes of samples and of predictions are drawn where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.contracts import IGNORE
from plainloop.report.pictures import (
    FAINT,
    LINE,
    PAPER,
    UNCOUNTED,
    colour,
    drawn,
    font,
    line_width,
    not_drawn,
    object_colour,
    with_objects,
)
from plainloop.report.sheet import caption, legend, sheet

NAMES = ("background", "cat", "dog")
GREY = {"image": torch.full((3, 20, 30), 0.5)}


def pixels(sample: dict, **settings) -> np.ndarray:
    return np.array(drawn(GREY | sample, **settings))


def with_cat() -> torch.Tensor:
    mask = torch.zeros(20, 30, dtype=torch.int64)
    mask[5:15, 10:20] = 1
    return mask


def test_a_class_has_an_outline_in_its_colour_and_class_0_stays_as_it_is():
    plain, seen = pixels({}, side=30), pixels({"mask": with_cat()}, side=30)
    changed = (plain != seen).any(-1)
    around = np.zeros((20, 30), bool)
    around[4:16, 10:20] = around[5:15, 9:21] = True  # the class, and one white pixel beside it
    assert np.array_equal(changed, around)
    assert (seen[5:7, 10:20] == colour(1)).all() and (seen[4, 10:20] == PAPER).all()
    assert (
        0.4
        < np.linalg.norm(seen[10, 15] - plain[10, 15].astype(float))
        / np.linalg.norm(np.subtract(colour(1), plain[10, 15].astype(float)))
        < 0.5
    )  # the image is seen through the tint


def test_pixels_without_a_class_are_hatched():
    seen = pixels({"mask": torch.full((20, 30), IGNORE)}, side=30)
    assert 0.2 < (seen == FAINT).all(-1).mean() < 0.3


def test_masks_are_enlarged_with_their_image_and_may_have_another_size():
    seen = pixels({"mask": with_cat()[::2, ::2]}, side=60)
    assert seen.shape == (40, 60, 3)
    assert (seen[12:14, 22:40] == colour(1)).all()


def test_valid_boxes_are_drawn_with_name_and_score_and_others_are_not():
    boxes = {"boxes": torch.tensor([[2.0, 8, 10, 18], [15, 2, 28, 18]]), "box_label": torch.tensor([1, 2])}
    boxes |= {"box_score": torch.tensor([0.9, 0.8])}
    plain = pixels({})
    none = pixels(boxes | {"box_valid": torch.tensor([False, False])}, class_names=NAMES)
    one = pixels(boxes | {"box_valid": torch.tensor([True, False])}, class_names=NAMES, side=120)
    assert np.array_equal(plain, none)
    assert (one[33:71, 8:10] == object_colour(1)).all()
    assert (one[16:32, 8:60] != pixels({}, side=120)[16:32, 8:60]).any()  # the words above it
    assert not (one == object_colour(2)).all(-1).any()


def test_the_pixels_of_an_object_are_tinted_and_have_an_outline_and_no_others_change():
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[0, 4:16, 8:24] = True
    sample = {"instance_mask": mask, "boxes": torch.zeros(1, 4), "box_label": torch.tensor([0])}
    plain = np.array(drawn(GREY, side=30))
    seen = with_objects(plain, [mask[0].numpy()], [object_colour(0)])
    assert np.array_equal((seen != plain).any(-1), mask[0].numpy())
    assert (seen[4, 8:24] == object_colour(0)).all() and (seen[4:16, 8] == object_colour(0)).all()
    assert (seen[10, 15] != object_colour(0)).all()  # the image is seen through the tint
    hidden = pixels(sample | {"box_valid": torch.tensor([False])}, side=30)
    assert np.array_equal(hidden, plain) and not np.array_equal(pixels(sample, side=30), plain)


def test_the_legend_names_the_classes_that_occur_and_no_others():
    def of(*numbers: int) -> Image.Image:
        return legend([{"mask": torch.tensor([numbers])}], NAMES, 300)

    def has(picture: Image.Image, number: int) -> bool:
        return bool((np.array(picture) == colour(number)).all(-1).any())

    assert has(of(0, 1), 1) and not has(of(0, 1), 2) and has(of(1, 2, IGNORE), 2)
    assert legend([GREY], NAMES, 300).height == 0


def test_colours_of_classes_differ():
    assert len({colour(number) for number in range(40)}) == 40


def test_a_sheet_of_a_prediction_is_drawn_as_one_of_samples():
    batch = {name: tensor[None] for name, tensor in (GREY | {"mask": with_cat(), "index": torch.tensor(0)}).items()}
    page = sheet(batch, {"image": batch["image"], "mask": batch["mask"]}, NAMES, title="both", num_images=1)
    seen = np.array(page)
    rows = np.flatnonzero((seen == colour(1)).all(-1).any(1))
    assert rows.max() - rows.min() > seen.shape[0] / 2  # in both rows of images


def test_of_many_detections_the_best_are_drawn_and_the_others_are_counted():
    boxes = torch.tensor([[2.0, 2, 28, 18]]).repeat(40, 1)
    labels, scores = torch.zeros(40, dtype=torch.int64), torch.linspace(0.9, 0.1, 40)
    labels[30:], boxes[30:] = 1, torch.tensor([5.0, 5, 20, 15])
    detections = {"boxes": boxes, "box_label": labels, "box_score": scores}
    assert not (pixels(detections) == object_colour(1)).all(-1).any()
    objects = {"boxes": boxes, "box_label": labels}  # all are drawn: nobody is surer of one than of another
    assert (pixels(objects) == object_colour(1)).all(-1).any()
    assert not_drawn(40) == ["the 30 best are drawn, 10 not"] and not_drawn(30) == []


def test_lines_and_letters_grow_with_the_picture():
    assert [(line_width(size), font(size).size) for size in ((288, 200), (1500, 1100), (1100, 1500))] == [
        (2, 12),
        (5, 30),
        (5, 30),
    ]


@pytest.mark.parametrize("name", ["box_crowd", "box_difficult"])
def test_objects_that_are_not_counted_are_grey_and_named_so(name: str):
    objects = {"boxes": torch.tensor([[2.0, 2, 28, 18], [5, 5, 20, 15]]), "box_label": torch.tensor([0, 1])}
    out = objects | {name: torch.tensor([False, True])}
    for sample, grey in ((objects, False), (out, True)):
        seen = pixels(sample)
        assert (seen == UNCOUNTED).all(-1).any() == grey and (seen == object_colour(1)).all(-1).any() != grey
        key = np.array(legend([sample], NAMES, 300))
        squares = [int((key == one).all(-1).sum()) >= LINE**2 for one in (UNCOUNTED, object_colour(1))]
        assert squares == [grey, not grey]
        assert caption(sample, NAMES) == ["2 objects, 1 not counted" if grey else "2 objects"]
