"""data.cache of images with masks: an image keeps its own mask, and what is bad is told as without a cache."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.contracts import IGNORE
from plainloop.data.masks.mask_folder import MaskFolder
from plainloop.data.masks.samples import MaskedImages
from plainloop.errors import BadData
from tests.harness.commands import passed
from tests.harness.tensors import equal

NAMES = ["sky", "road", "car"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of different sizes; red says which one it is, and so do the pixels of its mask without a class."""
    draw = np.random.default_rng(0)
    for split, number in (("train", 7), ("val", 3)):
        for folder in ("images", "masks"):
            (tmp_path / "set" / folder / split).mkdir(parents=True)
        for n in range(number):
            size = (20 + 3 * n, 30 - 2 * n)
            image = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            mask = draw.integers(0, 3, size, dtype=np.uint8)
            image[..., 0] = 10 * n
            mask[:, n] = 255
            Image.fromarray(image).save(tmp_path / "set" / "images" / split / f"{n}.png")
            Image.fromarray(mask).save(tmp_path / "set" / "masks" / split / f"{n}.png")
    return tmp_path / "set"


def source(root: Path, cache: str = "disk", *, num_workers: int = 0, **settings: object) -> MaskFolder:
    given = {"class_names": NAMES, "batch_size": 3, "image_size": 8, "device": "cpu", "timeout": 60} | settings
    given |= {"cache": cache, "cache_dir": str(root.parent / "caches"), "num_workers": num_workers}
    return MaskFolder(root=str(root), sample_transforms=(RandomScaleCrop(size=8).sample,), **given)


def all_batches(data: MaskFolder) -> list[object]:
    return [*data.train_batches(0, 5, seed=1), *data.eval_batches("val"), *data.eval_batches("train")]


def caches(root: Path) -> list[Path]:
    return sorted((root.parent / "caches").glob("*.cache"))


@pytest.mark.parametrize(("cache", "num_workers"), [("disk", 0), ("disk", 2), ("ram", 0)])
def test_training_and_evaluation_see_the_same_pairs_as_without_a_cache(root, cache, num_workers):
    plain = all_batches(source(root, "none"))
    assert equal(all_batches(source(root, cache, num_workers=num_workers)), plain)
    assert equal(all_batches(source(root, cache)), plain)  # from what is kept
    some = [all_batches(source(root, kind, max_train_samples=4)) for kind in (cache, "none")]
    assert equal(*some)


def test_a_mask_that_is_kept_with_another_image_would_be_noticed(root, monkeypatch):
    """The control, with two images of one size."""
    for folder in ("images", "masks"):
        (root / folder / "train/7.png").write_bytes((root / folder / "train/6.png").read_bytes())
    pixels = np.array(Image.open(root / "masks/train/7.png"))
    Image.fromarray(pixels[:, ::-1].copy()).save(root / "masks/train/7.png")
    plain, content = all_batches(source(root, "none")), MaskedImages.content
    assert equal(all_batches(source(root, "ram")), plain)

    def exchanged(self, name, **settings):
        found = content(self, name, **settings)
        return replace(
            found, masks=[*found.masks[:-2], *reversed(found.masks[-2:])] if "train" in name else found.masks
        )

    monkeypatch.setattr(MaskedImages, "content", exchanged)
    assert not equal(all_batches(source(root, "ram")), plain)


def test_what_changes_a_mask_makes_a_new_cache_and_nothing_else_does(root):
    all_batches(source(root))
    all_batches(source(root, batch_size=2, num_workers=1))
    assert len(caches(root)) == 2
    all_batches(source(root, mask_values=[[0, 0], [1, 2], [2, 1]]))
    assert len(caches(root)) == 4


def test_training_gets_smaller_images_with_the_nearest_classes_and_evaluation_whole_ones(root):
    small, plain = source(root, cache_size=12), source(root, "none")
    for split in ("val", "train"):
        assert equal(list(small.eval_batches(split)), list(plain.eval_batches(split)))
    images = small.readable("train", training=True)
    for number in range(7):
        packed = images.decoded(number)
        whole = Image.open(root / f"masks/train/{number}.png")
        assert packed.shape[0] == 4 and min(packed.shape[1:]) == 12
        assert set(packed[3].unique().tolist()) <= {0, 1, 2, IGNORE}
        height, width = packed.shape[1:]
        rows, columns = (
            ((torch.arange(length) + 0.5) * side / length).long()
            for length, side in ((height, whole.height), (width, whole.width))
        )
        assert torch.equal(packed[3], torch.from_numpy(np.array(whole))[rows[:, None], columns])


@pytest.mark.parametrize("cache", ["none", "disk", "ram"])
def test_a_bad_image_is_replaced_by_another_with_its_own_mask(root, cache):
    (root / "images/train/2.png").write_bytes(b"no image")
    (root / "images/val/1.png").write_bytes(b"no image")
    data = source(root, cache, on_bad_image="skip", image_size=40, max_bad_fraction=0.5)
    data.sample_transforms = ()
    seen = [*data.train_batches(0, 4, seed=1), *data.eval_batches("val")]
    for batch in seen:
        for image, mask in zip(batch["image"], batch["mask"]):
            number = int(image[0, image.shape[1] // 2, image.shape[2] // 2]) // 10
            assert (mask != IGNORE).sum() == (20 + 3 * number) * (30 - 2 * number - 1)
    assert {int(index) for batch in seen[4:] for index in batch["index"]} == {0, 2}
    skipped = {(row["split"], row["index"]) for row in data.take_skipped()}
    assert ("val", 1) in skipped and ("train", 2) in skipped


@pytest.mark.parametrize("on_bad_image", ["raise", "skip"])
@pytest.mark.parametrize("cache", ["none", "disk", "ram"])
def test_a_bad_mask_ends_the_run_whatever_is_said_of_images(root, cache, on_bad_image):
    (root / "masks/train/3.png").write_bytes(b"no mask")
    with pytest.raises(BadData, match=r"masks/train/3\.png cannot be decoded"):
        list(source(root, cache, on_bad_image=on_bad_image).train_batches(0, 4, seed=1))
    assert caches(root) == []


def test_the_plan_says_what_is_kept_and_how_large_it_is(root):
    typed = ("data=mask_folder", "task=segmentation", "model=tiny_seg", f"data.root={root}", "data.batch_size=3")
    typed += ("data.image_size=8", "data.num_classes=3", "data.cache=disk", f"data.cache_dir={root.parent}/caches")

    def told(*more: str) -> str:
        node = passed(*typed, *more).config["data"]
        return "\n".join(MaskFolder.plan_lines(**{key: value for key, value in node.items() if key != "_target_"}))

    pixels = sum(np.prod(Image.open(path).size) for path in (root / "masks").rglob("*.png"))
    assert f"keeps all images as they are, about {4 * pixels / 1000:.1f} kB in {root.parent}/caches" in told()
    assert "evaluation reads the files, at full size" in told("data.cache_size=12")
    all_batches(source(root))
    assert sum(os.path.getsize(path) for path in caches(root)) == 4 * pixels + 2 * 4096 + 32 * 10
