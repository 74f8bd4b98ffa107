"""Images with boxes from the workers: the same for any number of workers and ranks, with boxes where the pixels are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from plainloop.augment.per_sample import PerSample
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.data.boxes.letterbox import GREY, letterbox
from plainloop.data.boxes.samples import BoxedImages
from plainloop.data.loading import sampler
from plainloop.data.loading.workers import together
from plainloop.errors import BadData
from tests.harness.boxed import annotated, largest_error, objects_of, source, write_set
from tests.harness.tensors import equal

TRAIN, VAL = (3, 0, 7, 1, 5, 0, 2, 4, 6), (2, 0, 0, 5, 1, 3, 7)
CROP = RandomScaleCrop(size=48, scale=(0.4, 1.5), min_visible=0.0)  # whatever is seen has its box
FLIP = PerSample(transform=v2.RandomHorizontalFlip())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), TRAIN, VAL, outlines=True)


def everything(root: Path, **settings: object) -> list[object]:
    data = source(root, sample_transforms=(FLIP.sample, CROP.sample), **settings)
    return [*data.train_batches(0, 3, seed=1), *data.eval_batches("val"), *data.eval_batches("train")]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(root, num_workers):
    assert equal(everything(root, num_workers=num_workers), everything(root))


def test_starting_in_the_middle_gives_the_same_steps(root):
    data = source(root, sample_transforms=(CROP.sample,))
    whole = list(data.train_batches(0, 4, seed=1))
    assert equal(list(data.train_batches(2, 4, seed=1)), whole[2:])
    assert not equal(list(data.train_batches(2, 4, seed=2)), whole[2:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_have_the_rows_of_one_process(root, world_size, monkeypatch):
    """But for the padding: a rank pads to the most objects of its own images."""

    def batches():
        return list(source(root, sample_transforms=(CROP.sample,)).train_batches(0, 3, seed=1))

    alone, parts = batches(), []
    for rank in range(world_size):
        monkeypatch.setattr(sampler.Shard, "here", classmethod(lambda cls, rank=rank: cls(rank, world_size)))
        parts.append(batches())
    for whole, *shares in zip(alone, *parts):
        together = {index: row for share in shares for index, row in objects_of(share).items()}
        assert list(together) == whole["index"].tolist()
        assert equal(together, objects_of(whole))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_has_every_image_once_with_its_objects(root, world_size, monkeypatch):
    seen = []
    for rank in range(world_size):
        monkeypatch.setattr(sampler.Shard, "here", classmethod(lambda cls, rank=rank: cls(rank, world_size)))
        for batch in source(root, val={"batch_size_per_device": 2}).eval_batches("val"):
            seen += [(index, len(row["boxes"])) for index, row in objects_of(batch).items()]
    assert sorted(seen) == list(enumerate(VAL))


TRANSFORMS = {"letterbox": (), "crop": (CROP.sample,), "flip, then letterbox": (FLIP.sample,)}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_boxes_are_where_the_pixels_are(root, name):
    """Within a pixel: the size of the resized image is a whole number, and so are the edges of what is seen."""
    data = source(root, sample_transforms=TRANSFORMS[name])
    for batch in [*data.train_batches(0, 6, seed=1), *data.eval_batches("val")]:
        assert batch["image"].shape[1:] == (3, 48, 48)
        assert largest_error(batch) <= 1.01


def test_boxes_that_are_somewhere_else_would_be_noticed(root, monkeypatch):
    """The control: the image in the middle of the square, and not in its top left."""

    def centred(image, size, **settings):
        square, factor = letterbox(image, size, **settings)
        rest = size[0] - round(image.shape[-2] * factor)
        return square.roll(rest // 2, dims=-2), factor

    monkeypatch.setattr("plainloop.data.boxes.samples.letterbox", centred)
    assert largest_error(next(source(root).eval_batches("val"))) > 5


def test_instance_masks_are_where_the_boxes_are(root):
    """Boxes have whole pixels in the file: there, at a factor of 1, a mask fills its box."""
    for transforms in TRANSFORMS.values():
        for batch in source(root, sample_transforms=transforms).train_batches(0, 4, seed=1):
            for row, index in zip(*batch["box_valid"].nonzero(as_tuple=True)):
                x0, y0, x1, y1 = batch["boxes"][row, index]
                rows, columns = batch["instance_mask"][row, index].nonzero(as_tuple=True)
                if not len(rows):
                    assert min(x1 - x0, y1 - y0) < 1
                    continue
                seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                assert (seen - torch.stack([x0, y0, x1, y1])).abs().max() <= 1.01


def test_the_letterbox_has_one_factor_and_grey_to_the_right_and_below():
    wide, factor = letterbox(torch.full((3, 30, 60), 200, dtype=torch.uint8), (40, 40))
    assert factor == 40 / 60 and (wide[:, :20] == 200).all() and (wide[:, 20:] == GREY).all()
    high, factor = letterbox(torch.full((3, 60, 20), 200, dtype=torch.uint8), (30, 30))
    assert factor == 0.5 and (high[:, :, :10] == 200).all() and (high[:, :, 10:] == GREY).all()
    line, factor = letterbox(torch.full((3, 1, 1000), 200, dtype=torch.uint8), (40, 40))
    assert line.shape == (3, 40, 40) and (line == 200).any()
    square = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    assert torch.equal(letterbox(square, (40, 40))[0], square)


def test_evaluation_brings_its_boxes_back_to_the_files(root):
    data = source(root)
    for split in ("train", "val"):
        objects = data.all_images()[split].objects
        rows = {index: row for batch in data.eval_batches(split) for index, row in objects_of(batch).items()}
        assert len(rows) == len(objects)
        for index, row in rows.items():
            here = objects.objects(index)
            torch.testing.assert_close(row["boxes"] / row["image_scale"], torch.tensor(objects.boxes[here]))
            assert row["box_area"].tolist() == objects.area[here].tolist()
            assert row["image_size"].tolist() == objects.sizes[index].tolist()
            assert row["box_label"].tolist() == objects.label[here].tolist()


def test_training_has_no_entries_that_transforms_make_wrong(root):
    data = source(root)
    training, evaluated = next(data.train_batches(0, 1, seed=1)), next(data.eval_batches("val"))
    assert evaluated.keys() - training.keys() == {"image_scale", "image_size", "box_area", "instance_runs"}


def one_picture(folder: Path, boxes: list, **settings: object) -> BoxedImages:
    folder.mkdir(exist_ok=True)
    for number in range(2):
        Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(folder / f"{number}.png")
    objects = annotated([len(boxes), 0], boxes, [0] * len(boxes), [(50, 60)] * 2)
    return BoxedImages.of(folder, replace(objects, **settings), (60, 60))


def batch_of(images: BoxedImages, *indices: int):
    return together([images[0, index] for index in indices])


def test_a_batch_without_any_object_has_one_row_that_is_not_valid(tmp_path):
    for images in (one_picture(tmp_path, []), one_picture(tmp_path, []).augmented((CROP.sample, FLIP.sample), 0)):
        batch = batch_of(images, 0, 1)
        assert batch["boxes"].shape == (2, 1, 4) and not batch["box_valid"].any()
        assert batch["box_label"].shape == (2, 1) and batch["box_label"].dtype == torch.int64


def test_a_hundred_objects_are_kept_and_the_others_padded(tmp_path):
    boxes = [[x, y, x + 4, y + 3] for x in range(0, 50, 5) for y in range(0, 40, 4)]
    batch = batch_of(one_picture(tmp_path, boxes), 1, 0)
    assert batch["boxes"].shape == (2, 100, 4) and batch["box_valid"].sum(1).tolist() == [0, 100]
    assert batch["boxes"][1].tolist() == boxes and not batch["boxes"][0].any()


def test_flags_are_in_a_batch_where_any_object_of_the_split_has_them(tmp_path):
    boxes = [[0, 0, 9, 9], [5, 5, 20, 20]]
    plain = batch_of(one_picture(tmp_path, boxes), 0)
    assert not {"box_crowd", "box_difficult"} & plain.keys()
    flagged = one_picture(tmp_path, boxes, crowd=np.array([False, True]))
    assert batch_of(flagged, 0, 1)["box_crowd"].tolist() == [[False, True], [False, False]]


def test_objects_that_a_transform_moves_out_leave_the_sample(tmp_path):
    part = RandomScaleCrop(size=20, scale=(1.0, 1.0))
    images = one_picture(tmp_path, [[0, 0, 9, 9], [50, 40, 60, 50]]).augmented((part.sample,), 0)
    kept = [images[epoch, 0]["box_valid"].tolist() for epoch in range(30)]
    assert [] in kept and [True] in kept and not any(False in valid for valid in kept)


def test_an_image_of_another_size_than_its_annotations_is_named(tmp_path):
    images = one_picture(tmp_path, [], sizes=np.array([[100, 120], [0, 0]], np.int32))
    error = images[0, 0]
    assert isinstance(error, BadData) and "has 60 x 50 pixels, and its annotations are for 120 x 100" in str(error)
    assert isinstance(images[0, 1], dict)  # nothing is known of its size
