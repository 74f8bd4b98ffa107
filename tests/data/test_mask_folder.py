"""Images find their masks in every layout that is known; masks become classes, or one message says why not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.contracts import IGNORE
from plainloop.data.loaders import Loader
from plainloop.data.loading.workers import batches
from plainloop.data.masks.mask_folder import MaskFolder
from plainloop.errors import BadData
from plainloop.models.tiny_seg import TinySeg
from plainloop.tasks.segmentation import Segmentation
from tests.harness.commands import passed, problems

NAMES = ["sky", "road", "car"]


def picture(path: Path, value: int = 100, size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)


def mask(path: Path, values: Any = 1, size: tuple[int, int] = (12, 8), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.array(values, np.uint8), (size[1], size[0], *np.shape(values))).copy()
    made = Image.fromarray(pixels, mode=None if pixels.ndim == 3 else "L")
    if mode == "P":
        made = made.convert("L")
        made.putpalette([7, 7, 7] * 256)
    made.save(path)


def source(root: Path, **settings: Any) -> MaskFolder:
    given = {"class_names": NAMES, "batch_size": 2, "num_workers": 0, "image_size": 8, "device": "cpu"} | settings
    return MaskFolder(root=str(root), **given)


def one(root: Path, **settings: Any) -> torch.Tensor:
    """The mask of the first validation image."""
    return next(source(root, **settings).eval_batches("val"))["mask"][0]


def write(root: Path, pairs: Mapping[str, str]) -> Path:
    for number, (image, its_mask) in enumerate(pairs.items()):
        picture(root / image, 10 * number)
        mask(root / its_mask, number % 3)
    return root


LAYOUTS = {
    "images/train": (["images/train/{}.jpg", "masks/train/{}.png"], {}),
    "train/images": (["train/images/{}.png", "train/labels/{}.png"], {}),
    "deeper": (["images/train/a/{}.png", "masks/train/a/{}.png"], {}),
    "suffixes": (["im/train/{}_rgb.png", "gt/train/{}_id.png"], {"image_dir": "im", "mask_dir": "gt"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_image_finds_its_mask_in_every_layout(name: str, tmp_path: Path) -> None:
    (image, its_mask), settings = LAYOUTS[name]
    if name == "suffixes":
        settings = settings | {"image_suffix": "_rgb", "mask_suffix": "_id"}
    pairs = {}
    for split in ("train", "val"):
        for i in range(3):
            names = (path.replace("train", split).format(i) for path in (image, its_mask))
            pairs |= [tuple(names)]
    data = source(write(tmp_path, pairs), **settings)
    facts = MaskFolder.facts(root=str(tmp_path), class_names=NAMES, image_size=8, **settings)
    assert (facts.num_train, facts.num_val, facts.num_classes, facts.image_shape) == (3, 3, 3, (3, 8, 8))
    found = [batch["mask"].unique().tolist() for batch in data.eval_batches("val")]
    assert found == [[0], [1], [2]]


def test_without_val_a_fifth_is_held_out_by_the_names_and_new_files_hardly_change_it(tmp_path: Path) -> None:
    root = write(tmp_path, {f"images/{i}.png": f"masks/{i}.png" for i in range(20)})
    before = source(root).pairs()
    assert (len(before.train), len(before.val)) == (16, 4)
    assert not set(before.train) & set(before.val)
    write(root, {"images/new.png": "masks/new.png"})
    assert len(set(source(root).pairs().val) & set(before.val)) >= 3


def test_paddlesegs_lists_and_vocs_are_read(tmp_path: Path) -> None:
    root = write(tmp_path, {f"JPEGImages/{i}.jpg": f"Annotations/{i}.png" for i in range(4)})
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        (root / f"{split}_list.txt").write_text("".join(f"JPEGImages/{i}.jpg Annotations/{i}.png\n" for i in numbers))
        (root / f"{split}.txt").write_text("".join(f"{i}\n" for i in numbers))
    by_lists = source(root, lists="{split}_list.txt").pairs()
    by_names = source(root, lists="{split}.txt", image_dir="JPEGImages", mask_dir="Annotations").pairs()
    assert by_lists.train == by_names.train == [(f"JPEGImages/{i}.jpg", f"Annotations/{i}.png") for i in range(3)]
    assert by_lists.val == by_names.val == [("JPEGImages/3.jpg", "Annotations/3.png")]


PUBLISHED = {
    "voc": (["JPEGImages/{}.jpg", "SegmentationClass/{}.png"], {0: 0, 20: 20, 255: IGNORE}),
    "cityscapes": (
        ["leftImg8bit/{s}/ulm/{}_leftImg8bit.png", "gtFine/{s}/ulm/{}_gtFine_labelIds.png"],
        {7: 0, 33: 18, 3: IGNORE},
    ),
    "ade20k": (["images/{s}/{}.jpg", "annotations/{s}/{}.png"], {1: 0, 150: 149, 0: IGNORE}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_read_with_their_classes(name: str, tmp_path: Path) -> None:
    paths, values = PUBLISHED[name]
    for split in ("train", "val"):
        folder = {"train": "training", "val": "validation"}[split] if name == "ade20k" else split
        for number, value in enumerate(values):
            image, its_mask = (tmp_path / path.format(f"{split}{number}", s=folder) for path in paths)
            picture(image)
            mask(its_mask, value, mode="P" if name == "voc" else "L")
        lists = tmp_path / "ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{split}{number}\n" for number in range(len(values))))
    typed = (f"data={name}", "task=segmentation", "model=tiny_seg", f"data.root={tmp_path}", "data.batch_size=3")
    node = passed(*typed).config["data"]
    given = {key: value for key, value in node.items() if key != "_target_"} | {"num_workers": 0}
    for cache in ("none", "disk"):
        data = MaskFolder(**given | {"cache": cache, "cache_dir": str(tmp_path / "caches")})
        assert [batch["mask"].unique().tolist() for batch in data.eval_batches("val")] == [[c] for c in values.values()]


def small(root: Path, values: Any = 1, **settings: Any) -> Path:
    """Two images; the mask of the one that validates is special."""
    write(root, {"images/train/a.png": "masks/train/a.png"})
    picture(root / "images/val/b.png")
    mask(root / "masks/val/b.png", values, **settings)
    return root


def test_images_without_masks_are_counted_and_named_before_anything_is_decoded(tmp_path: Path) -> None:
    small(tmp_path)
    picture(tmp_path / "images/train/c.png")
    match = r"1 of 2 images in .*train have no mask: c\.png; expected .*masks/train/c\.png"
    with pytest.raises(BadData, match=match):
        MaskFolder.facts(root=str(tmp_path), class_names=NAMES)


def test_masks_without_an_image_are_told_in_the_plan(tmp_path: Path) -> None:
    small(tmp_path)
    mask(tmp_path / "masks/train/z.png")
    assert (
        "not used: 1 mask without an image"
        in MaskFolder.plan_lines(root=str(tmp_path), batch_size=1, class_names=NAMES)[0]
    )


@pytest.mark.parametrize(
    ("files", "settings", "match"),
    [
        (["a/x.png"], {}, r"has no folder of images called images, .*; it has the folders a"),
        (["images/x.png"], {}, r"has no folder of masks called masks, "),
        ([], {"lists": "{split}_list.txt"}, r"there is no .*train_list\.txt"),
    ],
)
def test_folders_that_are_not_there_are_named(files: Any, settings: Any, match: str, tmp_path: Path) -> None:
    for file in files:
        picture(tmp_path / file)
    with pytest.raises(BadData, match=match):
        MaskFolder.facts(root=str(tmp_path), class_names=NAMES, **settings)


def test_classes_that_are_not_given_are_asked_for_by_their_key(tmp_path: Path) -> None:
    small(tmp_path)
    typed = ("data=mask_folder", "task=segmentation", "model=tiny_seg", f"data.root={tmp_path}", "data.batch_size=1")
    assert problems(*typed)["data.class_names"].instead == "data.class_names=[background,road]"
    assert problems(*typed, "data.class_names=[background,road]") == {}


def test_a_line_that_is_no_pair_is_named(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "train_list.txt").write_text("images/train/a.png,masks/train/a.png\n")
    with pytest.raises(BadData, match=r"train_list\.txt, line 1: expected an image and its mask"):
        MaskFolder.facts(root=str(tmp_path), class_names=NAMES, lists="{split}_list.txt")
    (tmp_path / "train_list.txt").write_text("images/train/a.png masks/train/no.png\n")
    with pytest.raises(BadData, match=r"names 1 file not in .*: masks/train/no\.png"):
        MaskFolder.facts(root=str(tmp_path), class_names=NAMES, lists="{split}_list.txt")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"class_names": None}, r"type data\.class_names=\[background,road"),
        ({"num_classes": 4}, r"data\.class_names and data\.num_classes give 3 and 4 classes"),
        ({"ignore_index": 1}, r"data\.ignore_index=1 is a class; type data\.ignore_index=null"),
        ({"mask_values": [[0, 7]]}, r"data\.mask_values: \[0,7\] must map a value of the masks to a class, 0 to 2"),
        ({"palette": [[0, 0, 0]]}, r"data\.palette must have one colour .* for each of the 3 classes"),
        ({"sampler": "class_balanced"}, r"an image with a mask has no single class"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        MaskFolder.facts(**{"root": str(small(tmp_path)), "class_names": NAMES} | settings)


def test_training_cuts_or_pads_to_one_size_and_evaluation_takes_images_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, {f"images/train/{i}.png": f"masks/train/{i}.png" for i in range(4)})
    for name, size in (("a", (12, 8)), ("b", (30, 20))):
        picture(tmp_path / f"images/val/{name}.png", size=size)
        mask(tmp_path / f"masks/val/{name}.png", size=size)
    data = source(tmp_path, image_size=10)
    batch = next(data.train_batches(0, 1, seed=0))
    assert batch["image"].shape == (2, 3, 10, 10)
    assert (batch["mask"] == IGNORE).sum((1, 2)).tolist() == [20, 20]  # of 8 rows
    assert [batch["mask"].shape[1:] for batch in data.eval_batches("val")] == [(8, 12), (20, 30)]


VIEWS: dict[str, dict[str, Any]] = {
    "whole": {},
    "window": {"window": 9, "window_stride": 5},
    "scales and mirrored": {"tta_scales": [0.5, 1.0], "tta_flip": True},
}


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_of_any_size_are_evaluated_together_as_one_by_one(views: str, num_workers: int, tmp_path: Path) -> None:
    """No padding: what the model gives for an image does not depend on those that are evaluated with it."""
    write(tmp_path, {"images/train/0.png": "masks/train/0.png"})
    draw, sizes = np.random.default_rng(0), [(12, 8), (30, 20), (12, 8), (8, 12), (30, 20), (12, 8), (9, 9)]
    for number, (width, height) in enumerate(sizes):
        for folder, values in (("images", draw.integers(0, 256, (height, width, 3))), ("masks", None)):
            (tmp_path / folder / "val").mkdir(parents=True, exist_ok=True)
            pixels = draw.choice([0, 1, 2, 255], (height, width)) if values is None else values
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"val/{number}.png")
    torch.manual_seed(0)
    model, task = TinySeg(num_classes=3, width=4).eval(), Segmentation(num_classes=3, **VIEWS[views])

    def evaluated(rank_batch: int) -> tuple[dict[str, float], dict[int, torch.Tensor], list[int]]:
        metrics, seen, counts = task.metrics(), {}, []
        given = source(tmp_path, val={"batch_size_per_device": rank_batch, "num_workers": num_workers})
        for batch in given.eval_batches("val"):
            with torch.no_grad():
                logits = task.predict(model, batch | {"image": batch["image"].float() / 255})
            metrics.update(logits, batch)
            seen |= dict(zip(batch["index"].tolist(), logits.argmax(1), strict=True))
            counts.append(len(batch["index"]))
        return metrics.compute(), seen, counts

    (alone, masks_alone, ones), (together, masks, counts) = evaluated(1), evaluated(4)
    assert ones == [1] * 7 and counts == [2, 1, 1, 1, 1, 1]
    assert masks.keys() == masks_alone.keys() and all(torch.equal(masks[n], masks_alone[n]) for n in masks)
    assert together.pop("loss") == pytest.approx(alone.pop("loss"), rel=1e-6)  # sums of floats in another order
    assert together == alone


def test_images_of_different_sizes_are_refused_where_they_are_trained_on(tmp_path: Path) -> None:
    for number, size in enumerate([(12, 8), (30, 20), (20, 20)]):
        picture(tmp_path / f"images/train/{number}.png", size=size)
        mask(tmp_path / f"masks/train/{number}.png", size=size)
    images = source(tmp_path).all_images()["train"]
    with pytest.raises(BadData, match="different sizes cannot be in one batch"):
        next(batches(images, [[(0, 0), (0, 1)]], loader=Loader(2, 0), timeout=60, pin_memory=False))
