"""Fashion-MNIST, 28 x 28 clothes in ten classes (https://arxiv.org/abs/1708.07747), from its four idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.loading.download import cache_folder, download_once
from plainloop.data.small_set import SmallSet
from plainloop.errors import BadData

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

FILES: dict[tuple[Split, str], str] = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("val", "images"): "t10k-images-idx3-ubyte",
    ("val", "labels"): "t10k-labels-idx1-ubyte",
}
DIMENSIONS = {"images": 3, "labels": 1}


@dataclass(kw_only=True, eq=False)
class FashionMNIST(SmallSet):
    """60,000 images to train on, the official 10,000 test images to validate on; held on the device.

    Args:
        root: folder of the four idx files, plain or .gz. None: that of Debian's package, else that of the download.
        download: downloads them if they are missing, into `root` or the user's cache.

    Raises BadData when files are missing or damaged.
    """

    root: str | None = None
    download: bool = False

    def known(self) -> Facts:
        mean, std = self.statistics((0.2860,), (0.3530,))
        if self.download and find(self.root) is None:
            return Facts(60_000, 10_000, CLASSES, (1, 28, 28), mean, std, (6000,) * 10)
        found = folder(self.root)
        num_train, height, width = parse(locate(found, "train", "images"), whole=False)[0]
        num_val, *_ = parse(locate(found, "val", "images"), whole=False)[0]
        return Facts(num_train, num_val, CLASSES, (1, height, width), mean, std, class_counts(found, "train"))

    def val_counts(self) -> Sequence[int]:
        return (1000,) * 10 if self.download and find(self.root) is None else class_counts(folder(self.root), "val")

    def read(self) -> Mapping[Split, Batch]:
        import numpy as np
        import torch

        if self.download:
            into = cache_folder() if self.root is None else Path(self.root).expanduser()
            download_once(lambda: fetch(self.root, into), into)
        found = folder(self.root)
        splits: dict[Split, Batch] = {}
        for split in cast(tuple[Split, ...], ("train", "val")):
            files = (parse(locate(found, split, part)) for part in ("images", "labels"))
            images, labels = (np.frombuffer(content, np.uint8).reshape(sizes).copy() for sizes, content in files)
            if len(images) != len(labels) or (labels >= len(CLASSES)).any():
                raise BadData(
                    f"{found}: the {split} files hold {len(images)} images and {len(labels)} labels of 10 classes"
                )
            image, label = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
            splits[split] = {"image": image, "label": label}
        return splits


def find(root: str | None) -> Path | None:
    """The folder that has all four files, else None."""
    roots = [DEBIAN, cache_folder()] if root is None else [Path(root).expanduser()]
    places = [place for base in roots for place in (base, base / "FashionMNIST" / "raw")]  # the latter is torchvision's
    return next((place for place in places if all(has(place, name) for name in FILES.values())), None)


def has(place: Path, name: str) -> bool:
    return (place / name).is_file() or (place / f"{name}.gz").is_file()


def folder(root: str | None) -> Path:
    found = find(root)
    if found is None:
        place = f"data.root={root}" if root is not None else f"{DEBIAN} or {cache_folder()}"
        raise BadData(
            f"Fashion-MNIST is not in {place}: expected {', '.join(FILES.values())}, each plain or with .gz.",
            hint="set data.root=<folder with the four files>, or install Debian's package (apt-get install "
            "dataset-fashion-mnist) and leave data.root out, or let them be downloaded with data.download=true",
        )
    return found


def fetch(root: str | None, into: Path) -> None:
    from torchvision.datasets import FashionMNIST as Downloaded

    if find(root) is None:
        Downloaded(str(into), download=True)


def class_counts(found: Path, split: Split) -> tuple[int, ...]:
    labels = Counter(parse(locate(found, split, "labels"))[1])
    return tuple(labels[number] for number in range(len(CLASSES)))


def locate(found: Path, split: Split, part: str) -> Path:
    plain = found / FILES[split, part]
    return plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")


def parse(path: Path, *, whole: bool = True) -> tuple[tuple[int, ...], bytes]:
    """The sizes from an idx header (N, H, W) or (N,), and the bytes that follow it; none unless `whole`."""
    dimensions = next(DIMENSIONS[part] for (_, part), name in FILES.items() if path.name.startswith(name))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # 8 for bytes, the number of dimensions, then each size, as big-endian integers
            magic, *sizes = struct.unpack(f">{1 + dimensions}i", file.read(4 * (1 + dimensions)))
            content = file.read() if whole else b""
        if magic != 0x800 + dimensions:
            raise ValueError(f"starts with {magic:#x} where {0x800 + dimensions:#x} is expected")
        if whole and len(content) != math.prod(sizes):
            raise ValueError(f"holds {len(content)} bytes where {math.prod(sizes)} are announced")
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise BadData(f"{path} is not a readable idx file: {error}; fetch it again") from error
    return tuple(sizes), content
