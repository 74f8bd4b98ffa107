"""Which image files a folder of class folders holds, without opening any."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plainloop.contracts import Split
from plainloop.data.loading.stratify import num_held_out
from plainloop.errors import BadData

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Listing:
    """One folder of class folders: for each class, in the order of names, its files' sorted paths from `folder`."""

    folder: Path
    files: dict[str, list[str]]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def labels(self) -> Iterator[int]:
        return (label for label, names in enumerate(self.files.values()) for _ in names)

    @property
    def paths(self) -> Iterator[str]:
        return (name for names in self.files.values() for name in names)

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))


@dataclass(frozen=True)
class Listings:
    """All splits of a data set. Without its own folder, validation takes `val_fraction` of each class of `train`."""

    train: Listing
    val: Listing | None
    test: Listing | None
    val_fraction: float

    @property
    def num_train(self) -> int:
        return len(self.train) - (self.num_val if self.val is None else 0)

    @property
    def num_val(self) -> int:
        if self.val is not None:
            return len(self.val)
        return sum(num_held_out(len(names), self.val_fraction) for names in self.train.files.values())


def list_splits(root: str, *, val_fraction: float) -> Listings:
    """Finds train/, val/ and test/ of class folders in `root`, or class folders alone.

    Raises BadData for what cannot be trained on, with what to do about it.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"data.val_fraction={val_fraction} must lie between 0 and 1, such as 0.2")
    base = Path(root).expanduser()
    if not base.is_dir():
        what = "is a file" if base.exists() else "does not exist"
        raise BadData(
            f"data.root={root} {what}", hint="set data.root=<folder with train/ and val/, or with one folder a class>"
        )
    if not (base / "train").is_dir():
        if (base / "val").is_dir():
            raise BadData(
                f"data.root={root} has val/ but no train/", hint=f"put the training classes into {base / 'train'}"
            )
        listings = Listings(list_classes(base), None, None, val_fraction)
    else:
        parts = {split: list_classes(base / split) for split in ("train", "val", "test") if (base / split).is_dir()}
        listings = Listings(parts["train"], parts.get("val"), parts.get("test"), val_fraction)
        for split in parts.keys() - {"train"}:
            require_same_classes(parts["train"], split, parts[split])
    if listings.num_val == 0:
        raise BadData(
            f"no class of {listings.train.folder} has two images, "
            f"one to train on and one for data.val_fraction={val_fraction}",
            hint=f"add images, or put some of each class into {base / 'val'}",
        )
    return listings


def list_classes(folder: Path) -> Listing:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    files = {name: list_images(folder, name) for name in names}
    if not any(files.values()):
        inside = f"its folders {quoted(names)} hold none" if names else "it has no class folders"
        raise BadData(
            f"no images in {folder}: {inside}",
            hint=f"make one folder a class in it, with files ending in {', '.join(EXTENSIONS)}",
        )
    empty = [name for name in names if not files[name]]
    if empty:
        raise BadData(
            f"class folders without images in {folder}: {quoted(empty)}",
            hint=f"put files ending in {', '.join(EXTENSIONS)} into them, or delete them",
        )
    return Listing(folder, files)


def list_images(folder: Path, name: str) -> list[str]:
    """Image files of one class folder and of those inside it, without hidden ones; sorted, with the class in front."""
    found = []
    for where, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        found += [
            os.path.relpath(os.path.join(where, file), folder)
            for file in files
            if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
        ]
    return sorted(found)


def require_same_classes(train: Listing, split: Split | str, other: Listing) -> None:
    missing = [name for name in train.files if name not in other.files]
    added = [name for name in other.files if name not in train.files]
    if missing or added:
        sides = [f"only in train/: {quoted(missing)}"] * bool(missing) + [f"only in {split}/: {quoted(added)}"] * bool(
            added
        )
        raise BadData(
            f"{train.folder} and {other.folder} have different classes; {'; '.join(sides)}",
            hint=f"make the class folders of train/ and {split}/ the same",
        )


def quoted(names: Sequence[str], most: int = 10) -> str:
    """
    >>> quoted(["cat", "dog"]), quoted(["a", "b", "c"], most=2)
    ('cat, dog', 'a, b and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
