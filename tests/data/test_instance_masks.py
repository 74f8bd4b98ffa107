"""Outlines become the pixels that pycocotools gives for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as reference

from plainloop.data.boxes import instance_masks as module
from plainloop.data.boxes.annotations import Outlines
from plainloop.data.boxes.instance_masks import instance_masks
from tests.harness.boxed import annotated

SIZE = (90, 120)
AS_THEY_ARE = {"scale": (1.0, 1.0), "size": SIZE}


def outlined(shapes):
    """One image with these objects: lists of polygons (V, 2), or run lengths as bytes."""
    boxes = [(10.4, 20.5, 30.6, 40.7)] * len(shapes)
    objects = annotated([len(shapes)], boxes, [0] * len(shapes), [SIZE])
    polygons = [polygon for shape in shapes if isinstance(shape, list) for polygon in shape]
    runs = [shape if isinstance(shape, bytes) else b"" for shape in shapes]
    counts = [len(shape) if isinstance(shape, list) else 0 for shape in shapes]
    outlines = Outlines(
        points=np.concatenate([np.zeros((0, 2)), *polygons]).astype(np.float32),
        first_point=np.cumsum([0, *map(len, polygons)]),
        first_polygon=np.cumsum([0, *counts]),
        runs=np.frombuffer(b"".join(runs), np.uint8),
        first_byte=np.cumsum([0, *map(len, runs)]),
        runs_size=np.array([SIZE if one else (0, 0) for one in runs], np.int32),
    )
    return replace(objects, outlines=outlines)


def reference_masks(shapes, size=SIZE):
    codes = [[np.asarray(polygon).ravel().tolist() for polygon in polygons] for polygons in shapes]
    merged = [reference.merge(reference.frPyObjects(polygons, *size)) for polygons in codes]
    return torch.from_numpy(reference.decode(merged)).bool().permute(2, 0, 1)


def drawn(number, *, seed=0):
    """Objects of one to three polygons, which overlap and leave the image; two digits after the point, as in COCO."""
    draw = np.random.default_rng(seed)

    def polygon():
        centre, reach = draw.uniform(-5, (125, 95)), draw.uniform(2, 50)
        return (centre + draw.uniform(-reach, reach, (draw.integers(3, 12), 2))).round(2)

    return [[polygon() for _ in range(draw.integers(1, 4))] for _ in range(number)]


def test_polygons_are_pycocotools_pixels_and_those_of_one_object_are_united():
    shapes = drawn(150)
    masks = instance_masks(outlined(shapes), 0, **AS_THEY_ARE)
    assert masks.shape == (150, *SIZE) and masks.dtype == torch.bool
    assert torch.equal(masks, reference_masks(shapes))


def test_what_float32_loses_of_a_place_would_be_noticed(monkeypatch):
    """The control."""
    shapes = drawn(150)
    monkeypatch.setattr(module, "DIGITS", 12)
    masks = instance_masks(outlined(shapes), 0, **AS_THEY_ARE)
    assert not torch.equal(masks, reference_masks(shapes))


def test_run_lengths_are_pycocotools_pixels():
    draw = np.random.default_rng(0)
    masks = torch.from_numpy(draw.random((5, *SIZE)) < 0.4)
    runs = [reference.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"] for mask in masks]
    assert torch.equal(instance_masks(outlined(runs), 0, **AS_THEY_ARE), masks)


def test_an_object_without_an_outline_has_the_pixels_of_its_box():
    shapes = [[], drawn(1)[0]]
    box = [(10.4, 20.5), (30.6, 20.5), (30.6, 40.7), (10.4, 40.7)]
    assert torch.equal(instance_masks(outlined(shapes), 0, **AS_THEY_ARE), reference_masks([[box], shapes[1]]))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_scaled_mask_stands_in_the_top_left_and_is_the_outline_scaled(factor):
    polygon = np.array([(20.0, 10.0), (100.0, 10.0), (100.0, 60.0), (20.0, 60.0)])
    filled = np.zeros(SIZE, np.uint8, order="F")
    filled[10:60, 20:100] = 1
    runs = reference.encode(filled)["counts"]
    masks = instance_masks(outlined([[polygon], runs]), 0, scale=(factor, factor), size=(260, 260))
    assert torch.equal(masks[:1], reference_masks([[polygon * factor]], (260, 260)))
    expected = torch.zeros(260, 260, dtype=torch.bool)
    expected[int(10 * factor) : int(60 * factor), int(20 * factor) : int(100 * factor)] = True
    assert torch.equal(masks[1], expected)


def test_an_image_without_objects_has_no_masks():
    assert instance_masks(outlined([]), 0, **AS_THEY_ARE).shape == (0, *SIZE)
