"""torchvision's sets, in files of their own layout that these tests write: splits, labels, images, advice."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from plainloop.data.loading.torchvision_sets import Items
from plainloop.data.torchvision import Torchvision
from plainloop.errors import BadData
from tests.harness.tensors import equal

NOISE = np.random.default_rng(0)


def write_image(path, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_textures(root):
    """DTD: two partitions, of which the second has another training set."""
    files = [f"{name}/{name}_{i:04}.jpg" for name in ("dotted", "banded", "woven") for i in range(4)]
    for file in files:
        write_image(root / "dtd/dtd/images" / file)
    labels = root / "dtd/dtd/labels"
    labels.mkdir()
    for name, part in {"train1": files[::2], "val1": files[1::4], "test1": files[3::4], "train2": files}.items():
        (labels / f"{name}.txt").write_text("".join(f"{file}\n" for file in part))
    for name in ("val2", "test2"):
        (labels / f"{name}.txt").write_text(f"{files[0]}\n{files[4]}\n{files[8]}\n")


def write_pets(root):
    """Oxford-IIIT Pet: trainval and test; torchvision gives its class no loader."""
    for name in ("Abyssinian_1", "beagle_1", "Abyssinian_2", "beagle_2", "beagle_3"):
        write_image(root / f"oxford-iiit-pet/images/{name}.jpg")
    notes = root / "oxford-iiit-pet/annotations"
    notes.mkdir()
    (notes / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_1 2 2 1\nbeagle_2 2 2 1\n")
    (notes / "test.txt").write_text("Abyssinian_2 1 1 1\nbeagle_3 2 2 1\n")


def write_satellite(root):
    """EuroSAT: folders, one part."""
    for name in ("Forest", "River"):
        for i in range(5):
            write_image(root / f"eurosat/2750/{name}/{name}_{i}.jpg")


def write_digits(root):
    """MNIST: four idx files; 12 and 4 grey images."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    for prefix, number in (("train", 12), ("t10k", 4)):
        images = NOISE.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, number, 28, 28) + images.tobytes()
        )
        labels = bytes(i % 3 for i in range(number))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, number) + labels)


def write_flowers(root, monkeypatch):
    """Flowers102: MATLAB files, whose checksums torchvision compares."""
    from scipy.io import savemat

    base = root / "flowers-102"
    for i in range(1, 10):
        write_image(base / f"jpg/image_{i:05}.jpg")
    savemat(base / "imagelabels.mat", {"labels": [1, 2, 3] * 3})
    savemat(base / "setid.mat", {"trnid": [1, 2, 3, 4], "valid": [5, 6], "tstid": [7, 8, 9]})
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        digest = hashlib.md5((base / name).read_bytes()).hexdigest()
        monkeypatch.setitem(datasets.Flowers102._file_dict, key, (name, digest))


WRITE = {"DTD": write_textures, "OxfordIIITPet": write_pets, "EuroSAT": write_satellite, "MNIST": write_digits}


def source(name, root, **settings):
    told = {"batch_size": 2, "num_workers": 0, "image_size": 16, "device": "cpu"} | settings
    return Torchvision(name=name, root=str(root), **told)


@pytest.fixture(params=WRITE)
def name(request, tmp_path):
    WRITE[request.param](tmp_path)
    return request.param


SPLITS = {
    "DTD": ["train is split=train (6)", "val is split=val (3)", "test is split=test (3)"],
    "OxfordIIITPet": ["train is split=trainval (3)", "val is split=test (2)"],
    "EuroSAT": ["train is the whole set (10)", "val takes 0.2 of each class of train"],
    "MNIST": ["train is train=True (12)", "val is train=False (4)"],
}


def test_the_plan_says_which_of_its_splits_is_what(name, tmp_path):
    (line,) = source(name, tmp_path).plan_lines(name=name, root=str(tmp_path), batch_size=1)
    assert line == f"torchvision.datasets.{name}: {', '.join(SPLITS[name])}"


def test_facts_are_those_of_the_samples(name, tmp_path):
    data = source(name, tmp_path)
    facts = Torchvision.facts(name=name, root=str(tmp_path), image_size=16)
    labels = data.images["train"].labels.tolist()
    assert (facts.num_train, facts.num_val) == (len(labels), len(data.images["val"]))
    assert list(facts.class_counts) == np.bincount(labels, minlength=facts.num_classes).tolist()
    assert facts.image_shape == (3, 16, 16)


def test_images_and_labels_are_torchvisions(name, tmp_path):
    """Untouched by our resizing where they have the size asked for already."""
    size = 28 if name == "MNIST" else 20
    data = source(name, tmp_path, image_size=size, crop_fraction=1.0, train_eval_samples=100)
    (theirs,) = {part.dataset for part in [data.parts()["train"]]}
    for batch in data.eval_batches("train"):
        for image, label, index in zip(batch["image"], batch["label"], batch["index"].tolist()):
            position = int(data.images["train"].paths[index].decode().rpartition("/")[2])
            expected, target = theirs[position]
            if isinstance(expected, Image.Image):
                expected = torch.from_numpy(np.array(expected.convert("RGB"))).permute(2, 0, 1)
            left = (expected.shape[2] - size) // 2
            assert label == target
            assert torch.equal(image, expected[:, :, left : left + size])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_and_later_starts_change_nothing(name, tmp_path, num_workers):
    draws = {"sample_transforms": (lambda sample: sample | {"image": v2.RandomCrop(16)(sample["image"])},)}
    whole = list(source(name, tmp_path, **draws).train_batches(0, 4, seed=1))
    assert equal(whole[1:], list(source(name, tmp_path, num_workers=num_workers, **draws).train_batches(1, 4, seed=1)))


def test_facts_of_a_set_that_lets_us_load_its_images_decode_none(tmp_path):
    write_textures(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"no image")
    assert Torchvision.facts(name="DTD", root=str(tmp_path)).class_names == ("banded", "dotted", "woven")


def test_flowers_have_their_three_splits_and_their_names(tmp_path, monkeypatch):
    write_flowers(tmp_path, monkeypatch)
    data = source("Flowers102", tmp_path)
    assert {split: len(images) for split, images in data.images.items()} == {"train": 4, "val": 2, "test": 3}
    assert data.known().class_names[:2] == ("pink primrose", "hard-leaved pocket orchid")
    assert data.known().num_classes == 102


def test_its_own_arguments_reach_the_class(tmp_path):
    write_textures(tmp_path)
    assert source("DTD", tmp_path, arguments={"partition": 2}).known().num_train == 12


def test_labels_are_those_that_its_arguments_ask_for(tmp_path):
    """The class keeps the labels of another target in the attribute that is looked at first."""
    write_pets(tmp_path)
    notes = tmp_path / "oxford-iiit-pet/annotations/trainval.txt"
    notes.write_text("Abyssinian_1 1 2 1\nbeagle_1 2 1 1\nbeagle_2 2 2 1\n")
    data = source("OxfordIIITPet", tmp_path, arguments={"target_types": "binary-category"})
    assert data.images["train"].labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"val": {"split": "none"}}, {"train": 3, "val": 3, "test": 3}),
        ({"train": {"split": "val"}, "val": {"split": "train"}}, {"train": 3, "val": 6, "test": 3}),
        ({"test": {"split": "none"}}, {"train": 6, "val": 3}),
    ],
)
def test_splits_can_be_chosen(tmp_path, settings, sizes):
    write_textures(tmp_path)
    images = source("DTD", tmp_path, val_fraction=0.5, **settings).images
    assert {split: len(part) for split, part in images.items()} == sizes


@pytest.mark.parametrize(
    ("name", "settings", "told", "hint"),
    [
        ("Flower102", {}, "torchvision.datasets has no Flower102", "data.name=Flowers102"),
        ("DTD", {"val": {"split": "dev"}}, "its splits are train, val, test", "data.val.split=val"),
        ("EuroSAT", {"train": {"split": "train"}}, "it has one part", "data.train.split=auto"),
        ("DTD", {"arguments": {"parts": 2}}, "does not take data.arguments=", "one of its own: partition, split>"),
        ("Food101", {}, "Food101 is not read from data.root=.*: Dataset not found", ", or data.download=true"),
        (
            "ImageNet",
            {},
            "The archive .* is not present",
            "data.root=<the folder that torchvision.datasets.Image",
        ),
        ("CelebA", {"arguments": {"target_type": "attr"}}, "Dataset not found", "data.download=true"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_to_type(tmp_path, name, settings, told, hint):
    write_textures(tmp_path)
    with pytest.raises(BadData, match=told) as caught:
        source(name, tmp_path, **settings).known()
    assert hint in caught.value.hint


def test_a_set_without_class_numbers_is_refused(tmp_path):
    write_pets(tmp_path)
    with pytest.raises(BadData, match=r"not one class number for each image; its first label is \(0, 0"):
        source("OxfordIIITPet", tmp_path, arguments={"target_types": ["category", "binary-category"]}).known()


@pytest.mark.parametrize("name", ["DTD", "OxfordIIITPet"])
def test_a_damaged_image_is_named(tmp_path, name):
    WRITE[name](tmp_path)
    images = source(name, tmp_path).all_images()["train"]
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    assert isinstance(images, Items)
    with pytest.raises(BadData, match=r"cannot be (decoded|read)"):
        images.decoded(0)


def test_a_set_without_files_works_as_well():
    data = Torchvision(
        name="FakeData", batch_size=2, num_workers=0, image_size=8, arguments={"size": 10, "image_size": [3, 9, 9]}
    )
    assert data.known().num_train + data.known().num_val == 10
    assert next(data.train_batches(0, 1, seed=0))["image"].shape == (2, 3, 8, 8)


def test_downloading_is_left_to_torchvision(tmp_path, monkeypatch):
    """Its class is asked to download once for each split, and asks for nothing that is there."""
    write_digits(tmp_path)
    for path in (tmp_path / "MNIST/raw").iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(
        "torchvision.datasets.mnist.download_and_extract_archive", lambda *_, **__: pytest.fail("downloads")
    )
    assert source("MNIST", tmp_path, download=True).known().num_train == 12


@pytest.mark.parametrize("name", ["DTD", "OxfordIIITPet"])
def test_a_cache_gives_the_images_of_the_set(name, tmp_path):
    {"DTD": write_textures, "OxfordIIITPet": write_pets}[name](tmp_path)
    told = {"crop_fraction": 1.0, "image_size": 16, "cache_size": 64, "cache_dir": str(tmp_path / "caches")}

    def images(cache):
        data = source(name, tmp_path, **told, cache=cache)
        return [*data.train_batches(0, 2, seed=1), *data.eval_batches("val")]

    assert equal(images("disk"), images("none"))
    first = sorted((tmp_path / "caches").iterdir())
    assert equal(images("disk"), images("none")) and sorted((tmp_path / "caches").iterdir()) == first
    if name == "DTD":  # another training set, of the same name and size of images
        told["arguments"] = {"partition": 2}
        assert equal(images("disk"), images("none"))
