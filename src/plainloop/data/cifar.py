"""CIFAR-10 and CIFAR-100, 32 x 32 photographs (https://www.cs.toronto.edu/~kriz/cifar.html), read by torchvision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.images import channel_statistics, example_batch
from plainloop.data.loaders import INHERIT, Loader, check_settings, loaders
from plainloop.data.places import cache_folder, download_once
from plainloop.errors import BadData

if TYPE_CHECKING:
    from plainloop.data.memory import InMemory

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
    name: Literal["CIFAR10", "CIFAR100"]  # torchvision's
    folder: str
    archive: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PUBLISHED = {
    10: Published(
        "CIFAR10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        CLASSES_10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    100: Published(
        "CIFAR100",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        tuple(NAMES_100.split()),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
}


class CIFAR:
    """50,000 images to train on, the official 10,000 test images to validate on; held on the device.

    Args:
        classes: CIFAR-10, or CIFAR-100 with its fine classes.
        root: folder that holds cifar-10-batches-py (cifar-100-python), or that folder itself. None: the user's cache.
        download: fetches it when it is not there.
        num_workers: taken so that one command fits every source; a set in memory needs no workers.
        mean, std: per channel, of images in [0, 1]. None: those of the training images.

    Raises BadData when files are missing or damaged.
    """

    changes_no_result = ("root", "download", "*num_workers")

    def __init__(
        self,
        *,
        classes: Literal[10, 100],
        batch_size: int,
        root: str | None = None,
        download: bool = False,
        num_workers: int | Literal["auto"] = 0,
        train_eval_samples: int = 2000,
        device: str = "auto",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        train: Mapping[str, Any] = INHERIT,
        val: Mapping[str, Any] = INHERIT,
        test: Mapping[str, Any] = INHERIT,
    ) -> None:
        resolved = loaders(Loader(batch_size, num_workers), train=train, val=val, test=test)
        self._memory = load(PUBLISHED[classes], root, download, resolved, device, train_eval_samples)
        self.batch_size = self._memory.batch_size

    @classmethod
    def facts(
        cls,
        *,
        classes: Literal[10, 100],
        root: str | None = None,
        download: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **settings: Any,
    ) -> Facts:
        check_settings(settings)
        published = PUBLISHED[classes]
        if not download:
            folder(published, root)
        mean, std = channel_statistics(mean or published.mean, std or published.std, channels=3)
        return Facts(50_000, 10_000, published.classes, (3, 32, 32), mean, std)

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return example_batch(facts, batch_size)

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        return self._memory.train_batches(start, stop, seed)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        return self._memory.eval_batches(split)


def parent_of(published: Published, root: str | None) -> Path:
    """The folder that holds, or is to hold, the one that the archive unpacks to."""
    base = cache_folder() if root is None else Path(root).expanduser()
    return base.parent if base.name == published.folder else base


def folder(published: Published, root: str | None) -> Path:
    parent = parent_of(published, root)
    if not (parent / published.folder).is_dir():
        raise BadData(
            f"{published.name} is not in data.root={parent}: expected the folder {published.folder} there.",
            hint=f"unpack https://www.cs.toronto.edu/~kriz/{published.archive} and set data.root=<folder that holds "
            f"{published.folder}>, or let it be downloaded with data.download=true",
        )
    return parent


def load(
    published: Published,
    root: str | None,
    download: bool,
    resolved: Mapping[Split, Loader],
    device: str,
    train_eval_samples: int,
) -> InMemory:
    import torch
    from torchvision import datasets

    from plainloop.data.memory import InMemory

    dataset = getattr(datasets, published.name)
    parent = parent_of(published, root)
    if download:  # which keeps what is there and whole
        download_once(lambda: dataset(str(parent), download=True), parent)
    folder(published, root)
    splits: dict[Split, tuple[torch.Tensor, torch.Tensor]] = {}
    for split in cast(tuple[Split, ...], ("train", "val")):
        try:
            # Compares checksums before it unpickles, so that nothing but the published files is ever executed.
            part = dataset(str(parent), train=split == "train")
        except RuntimeError as error:
            raise BadData(
                f"{parent / published.folder} is incomplete or damaged; delete it and unpack it again"
            ) from error
        splits[split] = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)
    return InMemory(splits, loaders=resolved, device=device, train_eval_samples=train_eval_samples)
