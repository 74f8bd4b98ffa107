"""Published sets, read from files that the test writes in their formats."""

import gzip
import hashlib
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision import datasets

from plainloop.data.cifar import CIFAR, PUBLISHED
from plainloop.data.fashion_mnist import FILES, FashionMNIST
from plainloop.errors import BadData
from tests.harness.saved import Payload

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 10


def idx(array):
    return struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
    """Thirty images to train on, ten to validate on; the training files plain, the others packed."""
    for (split, part), name in FILES.items():
        array = {"images": PIXELS, "labels": LABELS}[part][slice(30) if split == "train" else slice(30, 40)]
        if split == "train":
            (tmp_path / name).write_bytes(idx(array))
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_fashion_mnist_reads_its_four_files_plain_or_packed(fashion):
    data = FashionMNIST(batch_size=10, root=str(fashion), device="cpu")
    for split, rows in (("train", slice(30)), ("val", slice(30, 40))):
        image, label = data.memory.splits[split].values()
        assert torch.equal(image, torch.from_numpy(PIXELS[rows]).unsqueeze(1))
        assert torch.equal(label, torch.from_numpy(LABELS[rows]).long())


def test_fashion_mnist_finds_where_torchvision_puts_it(fashion, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "FashionMNIST").mkdir()
    (root / "FashionMNIST" / "raw").symlink_to(fashion)
    assert FashionMNIST.facts(root=str(root)).num_train == 30


def test_fashion_mnist_facts_read_headers_only(fashion):
    path = fashion / FILES["train", "images"]
    path.write_bytes(path.read_bytes()[:16])
    facts = FashionMNIST.facts(root=str(fashion), batch_size=8, download=False)
    assert (facts.num_train, facts.num_val, facts.num_classes, facts.image_shape) == (30, 10, 10, (1, 28, 28))


def test_when_fashion_mnist_is_missing_the_message_says_all_three_ways(tmp_path):
    with pytest.raises(BadData, match=r"Fashion-MNIST is not in data.root=.*train-images-idx3-ubyte") as caught:
        FashionMNIST.facts(root=str(tmp_path))
    for way in ("data.root=<", "apt-get install dataset-fashion-mnist", "data.download=true"):
        assert way in caught.value.hint


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("split", "part", "change"),
    [
        ("train", "images", cut),
        ("val", "images", cut),
        ("train", "labels", lambda content: b"\0" + content),
        ("val", "labels", lambda content: content[:2]),
        ("train", "images", lambda content: b""),
    ],
)
def test_a_damaged_idx_file_is_named(fashion, split, part, change):
    name = FILES[split, part]
    path = next(fashion.glob(f"{name}*"))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadData, match=f"{path.name} is not a readable idx file"):
        FashionMNIST(batch_size=10, root=str(fashion), device="cpu").read()


def test_images_without_their_labels_are_noticed(fashion):
    (fashion / FILES["train", "labels"]).write_bytes(idx(LABELS[:29]))
    with pytest.raises(BadData, match="the train files hold 30 images and 29 labels"):
        FashionMNIST(batch_size=10, root=str(fashion), device="cpu").read()


CIFAR_PIXELS = np.random.default_rng(1).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(params=[(10, "cifar-10-batches-py", "labels"), (100, "cifar-100-python", "fine_labels")])
def cifar(request, tmp_path, monkeypatch):
    """The source and the root of eight plus four images; torchvision is told their checksums."""
    classes, folder, labels = request.param
    kind = getattr(datasets, PUBLISHED[classes].name)
    (tmp_path / folder).mkdir()

    def write(name, content):
        packed = pickle.dumps(content)
        (tmp_path / folder / name).write_bytes(packed)
        return [name, hashlib.md5(packed).hexdigest()]

    def part(rows):
        return {"data": CIFAR_PIXELS[rows].reshape(-1, 3072), labels: list(range(12))[rows]}

    monkeypatch.setattr(kind, "train_list", [write("one", part(slice(8)))])
    monkeypatch.setattr(kind, "test_list", [write("two", part(slice(8, 12)))])
    name, checksum = write("meta", {kind.meta["key"]: ["a"] * 12})
    monkeypatch.setattr(kind, "meta", kind.meta | {"filename": name, "md5": checksum})
    return classes, tmp_path, folder


def test_cifar_gives_the_pixels_of_its_batches_by_root_or_by_the_folder_itself(cifar):
    classes, root, folder = cifar
    for place in (root, root / folder):
        data = CIFAR(classes=classes, batch_size=4, root=str(place), device="cpu")
        image, label = data.memory.splits["train"].values()
        assert torch.equal(image, torch.from_numpy(CIFAR_PIXELS[:8]))
        assert label.tolist() == list(range(8))
        assert torch.equal(data.memory.splits["val"]["image"], torch.from_numpy(CIFAR_PIXELS[8:]))
        assert CIFAR.facts(classes=classes, root=str(place)).image_shape == (3, 32, 32)


def test_an_altered_cifar_file_is_refused_before_it_is_unpickled(cifar, tmp_path_factory):
    classes, root, folder = cifar
    marker = tmp_path_factory.mktemp("marker") / "executed"
    (root / folder / "one").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(BadData, match=f"{folder} is incomplete or damaged"):
        CIFAR(classes=classes, batch_size=4, root=str(root), device="cpu").read()
    assert not marker.exists()


@pytest.mark.parametrize("classes", [10, 100])
def test_when_cifar_is_missing_the_message_says_how_to_get_it(classes, tmp_path):
    with pytest.raises(BadData, match=f"CIFAR{classes} is not in data.root={tmp_path}") as caught:
        CIFAR.facts(classes=classes, root=str(tmp_path))
    for way in ("https://www.cs.toronto.edu/~kriz/cifar-10", "data.root=<", "data.download=true"):
        assert way in caught.value.hint


@pytest.mark.parametrize(
    ("module", "source"),
    [("digits", "Digits"), ("fashion_mnist", "FashionMNIST"), ("cifar", "CIFAR"), ("image_folder", "ImageFolder")],
)
def test_facts_of_every_source_do_without_torch(module, source, fashion):
    root = fashion if module == "fashion_mnist" else fashion / "folder"
    for name in ("a", "b"):
        (fashion / "folder" / name).mkdir(parents=True)
        for i in range(2):
            (fashion / "folder" / name / f"{i}.jpg").write_bytes(b"no image")
    told = "" if module == "digits" else f"root={str(root)!r}, " + "classes=10, download=True, " * (module == "cifar")
    code = (
        f"import sys; from plainloop.data.{module} import {source}; facts = {source}.facts({told}batch_size=8); "
        "assert facts.num_train > 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
