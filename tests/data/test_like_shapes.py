"""Rectangles that are wide or tall as the images of their batch: data.image_size=[800,1333]."""

import json
import re
from pathlib import Path

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from plainloop.augment.multi_scale import MultiScale
from plainloop.augment.per_sample import PerSample
from plainloop.data.boxes.coco import CocoBoxes
from plainloop.data.boxes.letterbox import letterbox
from plainloop.data.boxes.sides import factor_of, frame_of
from plainloop.data.loading import sampler
from plainloop.data.loading.decode import decode
from tests.harness.annotated import as_coco, write_coco, write_images
from tests.harness.boxed import largest_error, objects_of, source, write_set
from tests.harness.commands import passed, problems
from tests.harness.tensors import equal

TRAIN, VAL = (3, 0, 7, 1, 5, 0, 2, 4, 6), (2, 0, 0, 5, 1, 3, 7)
SIDES = (40, 64)
FLIP = PerSample(transform=v2.RandomHorizontalFlip()).sample


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), TRAIN, VAL, outlines=True)


def made(root: Path, **settings: object):
    return source(root, **{"image_size": list(SIDES), "batch_size": 2, "sample_transforms": (FLIP,)} | settings)


@pytest.mark.parametrize("transforms", [(), (FLIP,)])
def test_a_batch_has_one_shape_and_boxes_are_where_the_pixels_are(root, transforms):
    shapes = []
    for batch in made(root, sample_transforms=transforms).train_batches(0, 12, seed=1):
        shapes.append(tuple(batch["image"].shape[-2:]))
        assert batch["instance_mask"].shape[-2:] == shapes[-1]
        assert largest_error(batch) <= 1.01
    assert set(shapes) == {SIDES, SIDES[::-1]}


def test_a_batch_has_the_shape_that_most_of_its_images_need(root):
    data = made(root, batch_size=3)
    tall = data.images["train"].tall
    for batch in data.train_batches(0, 9, seed=1):
        assert tuple(batch["image"].shape[-2:]) == frame_of(SIDES, tall=bool(tall[batch["index"]].mean() > 0.5))


def everything(root: Path, **settings: object) -> list[object]:
    data = made(root, **settings)
    return [*data.train_batches(0, 6, seed=1), *data.eval_batches("val"), *data.eval_batches("train")]


def test_any_number_of_workers_and_any_cache_gives_the_same_batches(root):
    plain = everything(root)
    assert equal(everything(root, num_workers=2), plain)
    assert equal(everything(root, cache="ram"), plain)


def test_starting_in_the_middle_gives_the_same_steps(root):
    whole = list(made(root).train_batches(0, 9, seed=1))
    for start in range(9):
        assert equal(list(made(root).train_batches(start, 9, seed=1)), whole[start:])


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_have_the_shape_and_the_rows_of_one_process(root, world_size, monkeypatch):
    alone, parts = list(made(root, batch_size=4).train_batches(0, 6, seed=1)), []
    for rank in range(world_size):
        monkeypatch.setattr(sampler.Shard, "here", classmethod(lambda cls, rank=rank: cls(rank, world_size)))
        parts.append(list(made(root, batch_size=4).train_batches(0, 6, seed=1)))
    for whole, *shares in zip(alone, *parts):
        assert {share["image"].shape[1:] for share in shares} == {whole["image"].shape[1:]}
        rows = {index: row for share in shares for index, row in objects_of(share).items()}
        assert list(rows) == whole["index"].tolist() and equal(rows, objects_of(whole))


def test_an_image_in_the_place_of_a_bad_one_gets_the_shape_of_the_batch(tmp_path):
    """Also where it is wide and the other one was tall."""
    folder = write_set(tmp_path, TRAIN, VAL)
    for number in (0, 1):  # one is tall, one wide
        (folder / "train" / f"{number}.png").write_bytes(b"no image")
    data = made(folder, on_bad_image="skip", max_bad_fraction=1.0, batch_size=1)
    tall = data.images["train"].tall
    met = [
        (tuple(batch["image"].shape[-2:]), bool(tall[batch["index"]])) for batch in data.train_batches(0, 27, seed=1)
    ]
    assert (SIDES[::-1], False) in met and (SIDES, True) not in met


@pytest.mark.parametrize("world_size", [1, 2])
def test_evaluation_has_every_image_once_in_its_own_shape(root, world_size, monkeypatch):
    seen = {}
    for rank in range(world_size):
        monkeypatch.setattr(sampler.Shard, "here", classmethod(lambda cls, rank=rank: cls(rank, world_size)))
        for batch in made(root, val={"batch_size_per_device": 4}).eval_batches("val"):
            assert largest_error(batch) <= 1.01
            assert not seen.keys() & objects_of(batch).keys()
            seen |= objects_of(batch)
    assert len(seen) == len(VAL)
    for row in seen.values():
        height, width = row["image_size"].tolist()
        frame = frame_of(SIDES, tall=height > width)
        assert tuple(row["image"].shape[-2:]) == frame
        assert float(row["image_scale"]) == pytest.approx(factor_of(height, width, frame))


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (500, 500), (100, 900), (612, 612), (333, 500)])
def test_images_have_the_size_that_torchvision_gives_them(size):
    """Within a pixel: torchvision drops the part of a pixel that is left, and the letterbox rounds."""
    image = torch.full((3, *size), 200, dtype=torch.uint8)
    theirs, _ = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3).resize(image.float())
    ours, factor = letterbox(image, frame_of((80, 133), tall=size[0] > size[1]))
    rows, columns = ((ours[0] == 200).any(dim).sum().item() for dim in (1, 0))
    assert factor == min(80 / min(size), 133 / max(size))
    assert max(abs(rows - theirs.shape[-2]), abs(columns - theirs.shape[-1])) <= 1


@pytest.mark.parametrize("step", range(0, 40, 10))
def test_multi_scale_gives_wide_and_tall_batches_the_same_sides(step):
    scales = MultiScale(seed=3)
    assert scales.size(*SIDES[::-1], step) == scales.size(*SIDES, step)[::-1]


def coco(**settings: object) -> CocoBoxes:
    return CocoBoxes(root="anywhere", batch_size=2, num_workers=0, device="cpu", **settings)


def test_an_image_of_a_person_is_prepared_as_evaluation_does_it(tmp_path):
    write_images(tmp_path / "images")
    write_images(tmp_path / "images", ["1.jpg", "3.jpg"], size=(60, 80))  # tall ones
    content = as_coco()
    for image in content["images"]:
        image["width"], image["height"] = (60, 80) if image["file_name"] in ("1.jpg", "3.jpg") else (80, 60)
    content["annotations"] = content["annotations"][:1]
    (tmp_path / "train.json").write_text(json.dumps(content))
    given = {"root": str(tmp_path), "batch_size": 2, "num_workers": 0, "device": "cpu", "image_size": [30, 50]}
    assert CocoBoxes.facts(**given).image_shape == (3, 30, 50)
    assert "wide images, 30 high and 50 wide" in " ".join(CocoBoxes.plan_lines(**given))
    prepared, data, shapes = CocoBoxes.preprocessing(**given), CocoBoxes(**given), set()
    assert (prepared.one_size, prepared.letterboxed) == (False, True)
    for split in ("train", "val"):
        for batch in data.eval_batches(split):
            shapes.add(tuple(batch["image"].shape[-2:]))
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                path = tmp_path / data.name_of(split, index)
                assert torch.equal(prepared.prepare(decode(path, turned=False)), image)
    assert shapes == {(30, 50), (50, 30)}


@pytest.mark.parametrize(
    ("image_size", "said"),
    [
        ([1333, 800], r"image_size=\[1333,800\] must have the shorter side first; type data.image_size=\[800,1333\]"),
        ([800], r"image_size=\[800\] must be one number.*type data.image_size=\[800,1333\], or data.image_size=800"),
        ([1, 2, 3], "must be one number, for a square, or two"),
        ([0, 10], r"sides of at least 1 pixel; type data.image_size=\[800,1333\]"),
    ],
)
def test_other_sizes_are_refused_with_what_to_type(image_size, said):
    with pytest.raises(ValueError, match=said):
        coco(image_size=image_size)


@pytest.mark.parametrize(
    ("augment", "entry", "others"),
    [
        ("[mosaic,yolo]", "scale_crop", ["mosaic", "flip", "color_jitter", "multi_scale"]),
        ("large_scale_jitter", "scale_crop", ["flip"]),
        ("standard", "crop", ["flip"]),  # torchvision's
    ],
)
def test_what_gives_all_images_one_size_is_refused_and_the_rest_can_be_kept(tmp_path, augment, entry, others):
    write_images(tmp_path / "JPEGImages")
    for split in ("train", "val"):
        write_coco(tmp_path / f"{split}.json", as_coco())
    typed = ("task=detection", "model=yolov3", "model.backbone=tiny", "data=coco", f"data.root={tmp_path}")
    typed += ("data.batch_size=2", "threads=1", f"augment={augment}")
    assert entry in passed(*typed, "data.image_size=96").config["augment"]
    ((key, problem),) = problems(*typed, "data.image_size=[64,96]").items()
    assert key == f"augment.{entry}"
    assert re.match(r"Random\w*Crop gives all images one shape, and data.image_size=\[64,96\] makes wide", problem.what)
    assert problem.instead == f"~augment.{entry}"
    assert list(passed(*typed, "data.image_size=[64,96]", problem.instead).config["augment"]) == others


def test_two_equal_sides_are_the_square(root):
    """With the same order of the samples."""
    one, two = (list(made(root, image_size=size).train_batches(0, 4, seed=1)) for size in (48, [48, 48]))
    assert equal(one, two)
