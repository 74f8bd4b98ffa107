"""CIFAR-10 and CIFAR-100, 32 x 32 photographs (https://www.cs.toronto.edu/~kriz/cifar.html), read by torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.loading.download import cache_folder, download_once
from plainloop.data.small_set import SmallSet
from plainloop.errors import BadData

CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Published:
    folder: str  # that the archive unpacks to
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def name(self) -> str:
        return f"CIFAR{len(self.classes)}"


PUBLISHED = {
    10: Published("cifar-10-batches-py", CLASSES_10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: Published("cifar-100-python", tuple(NAMES_100.split()), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@dataclass(kw_only=True, eq=False)
class CIFAR(SmallSet):
    """50,000 images to train on, the official 10,000 test images to validate on; held on the device.

    Args:
        classes: CIFAR-10, or CIFAR-100 with its fine classes.
        root: folder that holds cifar-10-batches-py (cifar-100-python), or that folder itself. None: the user's cache.
        download: downloads it if it is missing.

    Raises BadData when files are missing or damaged.
    """

    classes: Literal[10, 100]
    root: str | None = None
    download: bool = False

    def known(self) -> Facts:
        published = PUBLISHED[self.classes]
        mean, std = self.statistics(published.mean, published.std)
        if not self.download:
            folder(published, self.root)
        counts = (50_000 // self.classes,) * self.classes
        return Facts(50_000, 10_000, published.classes, (3, 32, 32), mean, std, counts)

    def val_counts(self) -> Sequence[int]:
        return (10_000 // self.classes,) * self.classes

    def read(self) -> Mapping[Split, Batch]:
        import torch
        from torchvision import datasets

        published = PUBLISHED[self.classes]
        dataset = getattr(datasets, published.name)
        parent = parent_of(published, self.root)
        if self.download:  # torchvision downloads only what is missing or damaged
            download_once(lambda: dataset(str(parent), download=True), parent)
        folder(published, self.root)
        splits: dict[Split, Batch] = {}
        for split in cast(tuple[Split, ...], ("train", "val")):
            try:
                # Compares checksums before it unpickles, so that only the published files are ever executed.
                part = dataset(str(parent), train=split == "train")
            except RuntimeError as error:
                raise BadData(
                    f"{parent / published.folder} is incomplete or damaged; delete it and unpack it again"
                ) from error
            image = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
            splits[split] = {"image": image, "label": torch.tensor(part.targets)}
        return splits


def parent_of(published: Published, root: str | None) -> Path:
    """The folder in which the archive is, or will be, unpacked."""
    base = cache_folder() if root is None else Path(root).expanduser()
    return base.parent if base.name == published.folder else base


def folder(published: Published, root: str | None) -> Path:
    parent = parent_of(published, root)
    if not (parent / published.folder).is_dir():
        raise BadData(
            f"{published.name} is not in data.root={parent}: expected the folder {published.folder} there.",
            hint=f"unpack https://www.cs.toronto.edu/~kriz/cifar-{len(published.classes)}-python.tar.gz and "
            f"set data.root=<folder that holds "
            f"{published.folder}>, or let it be downloaded with data.download=true",
        )
    return parent
