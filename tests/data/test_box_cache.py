"""data.cache of images with boxes: the boxes are those of the annotations of today, in pixels of what is kept."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from plainloop.augment.per_sample import PerSample
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.data.boxes.samples import BoxedImages
from plainloop.errors import BadData
from tests.harness.boxed import Rectangles, largest_error, source, write_set
from tests.harness.tensors import equal

CROP = RandomScaleCrop(size=20, scale=(0.4, 1.5))
FLIP = PerSample(transform=v2.RandomHorizontalFlip())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", (3, 0, 7, 1, 5, 2, 4), (2, 0, 5), outlines=True)


def kept(root: Path, cache: str, **settings: object) -> Rectangles:
    given = {"image_size": 20, "batch_size": 4, "sample_transforms": (FLIP.sample, CROP.sample)} | settings
    return source(root, cache=cache, cache_dir=str(root.parent / "caches"), **given)


def everything(data: Rectangles) -> list[object]:
    return [*data.train_batches(0, 3, seed=1), *data.eval_batches("val"), *data.eval_batches("train")]


def caches(root: Path) -> list[Path]:
    return sorted((root.parent / "caches").glob("*.cache"))


@pytest.mark.parametrize(("cache", "num_workers"), [("disk", 2), ("ram", 0)])
def test_batches_are_those_of_the_files_where_nothing_is_resized(root, cache, num_workers):
    plain = everything(kept(root, "none"))
    assert equal(everything(kept(root, cache, num_workers=num_workers)), plain)
    assert equal(everything(kept(root, cache, cache_size=500)), plain)


@pytest.mark.parametrize("transforms", [(), (FLIP.sample,), (CROP.sample,)])
def test_boxes_are_where_the_pixels_are_in_smaller_images(root, transforms):
    data = kept(root, "ram", cache_size=31, sample_transforms=transforms, image_size=30)
    for batch in [*data.train_batches(0, 4, seed=1), *data.eval_batches("val")]:
        assert largest_error(batch) <= 2.0  # resized up to three times, and rounded each time


def test_evaluation_of_smaller_images_has_the_boxes_and_scales_of_the_files(root):
    small, plain = (list(kept(root, cache, cache_size=25).eval_batches("val")) for cache in ("ram", "none"))
    for one, other in zip(small, plain, strict=True):
        assert not torch.equal(one.pop("image"), other.pop("image"))
        assert equal(one, other)


def test_other_annotations_need_no_other_cache(root):
    everything(kept(root, "disk"))
    assert len(caches(root)) == 2
    path = root / "train.objects"
    objects = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(replace(objects, label=(objects.label + 1) % 7, boxes=objects.boxes * 0.5)))
    assert equal(everything(kept(root, "disk")), everything(kept(root, "none")))
    assert len(caches(root)) == 2


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_a_bad_image_is_replaced_by_another_with_its_own_boxes(root, cache):
    for name in ("train/2.png", "val/1.png"):
        (root / name).write_bytes(b"no image")
    data = kept(root, cache, on_bad_image="skip", max_bad_fraction=0.5, sample_transforms=(), image_size=40)
    for batch in data.train_batches(0, 4, seed=1):
        assert largest_error(batch) <= 1.01
        assert 2 not in batch["index"]
    assert {int(index) for batch in data.eval_batches("val") for index in batch["index"]} == {0, 2}
    assert {("train", 2), ("val", 1)} <= {(row["split"], row["index"]) for row in data.take_skipped()}


def test_boxes_of_the_image_that_was_replaced_would_be_noticed(root, monkeypatch):
    """The control."""
    (root / "train/2.png").write_bytes(b"no image")
    placed = BoxedImages._placed
    monkeypatch.setattr(BoxedImages, "_placed", lambda self, index, *more: placed(self, (index + 1) % 7, *more))
    data = kept(root, "none", on_bad_image="skip", max_bad_fraction=0.5, sample_transforms=(), image_size=40)
    assert max(largest_error(batch) for batch in data.train_batches(0, 4, seed=1)) > 3


def test_a_damaged_cache_is_named(root):
    everything(kept(root, "disk"))
    path = caches(root)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadData, match=f"{path.name} is damaged or not complete"):
        everything(kept(root, "disk"))
