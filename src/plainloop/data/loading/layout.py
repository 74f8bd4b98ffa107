"""Which folders of `data.root` are splits, which are classes, and which are neither."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plainloop.contracts import Split
from plainloop.errors import BadData

if TYPE_CHECKING:
    from plainloop.data.loading.listing import Listing

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Spellings of the split folders, in lower case, without digits and punctuation: Train, train_set and train2017 are one.
SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trainingset", "traindata", "trainimages"),
    "val": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation", "valset", "valdata", "valimages"),
    "test": ("test", "testing", "testset", "testdata", "testimages"),
}
# Folders that operating systems and archive programs leave behind.
LEFTOVERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__pycache__")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones and leftovers."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_leftover(entry.name))


def is_leftover(name: str) -> bool:
    return name.startswith(".") or name in LEFTOVERS


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def num_images(folder: Path) -> int:
    """Image files that lie directly in a folder."""
    return sum(is_image(entry.name) and entry.is_file() for entry in os.scandir(folder))


def split_of(name: str) -> Split | None:
    """
    >>> split_of("Training"), split_of("val_2017"), split_of("train_station")
    ('train', 'val', None)
    """
    word = re.sub(r"[^a-z]", "", name.lower())
    return next((split for split, spellings in SPELLINGS.items() if word in spellings), None)


def names_a_split(name: str) -> bool:
    """Whether a word of the name is one of a split: images_train."""
    return any(split_of(word) for word in re.split(r"[^a-z]+", name.lower()))


def find_splits(root: str, base: Path) -> dict[Split, str]:
    """The folder of each split; {} if the folders in `data.root` are classes. Raises BadData if this is unclear."""
    names = subfolders(base)
    found: dict[Split, list[str]] = {}
    for name in names:
        if split := split_of(name):
            found.setdefault(split, []).append(name)
    candidates = [name for names_of_split in found.values() for name in names_of_split]
    others = [name for name in names if name not in candidates and num_images(base / name)]
    if others and all(num_images(base / name) for name in candidates):
        return {}  # such as the classes bus/, car/ and train/
    for split, spellings in found.items():
        if len(spellings) > 1:
            raise BadData(
                f"data.root={root} has several folders for {split}: {quoted(spellings)}",
                hint=f"keep one of them in data.root, with the name {split}",
            )
    if found and "train" not in found:
        also = f", beside the folders {quoted(others)}" if others else ""
        raise BadData(
            f"data.root={root} has {quoted(candidates)} but no train/{also}",
            hint=f"put the training classes into {base / 'train'}",
        )
    return {split: spellings[0] for split, spellings in found.items()}


def quoted(names: Sequence[str], most: int = 10) -> str:
    """
    >>> quoted(["cat", "dog"]), quoted(["a", "b", "c"], most=2)
    ('cat, dog', 'a, b and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_class_folders(train: Listing, *, is_root: bool) -> None:
    """Refuses what would be trained on with wrong labels: a folder too high, splits as classes, one class."""
    folder, names = train.folder, list(train.files)
    deep = [name for name, paths in train.files.items() if all(path.count("/") > 1 for path in paths)]
    if deep:
        inner = sorted({path.rpartition("/")[0] for name in deep for path in train.files[name]})
        up = f"if {quoted(deep, 3)} are the classes, move the images up into them"
        lower = folder / deep[0]
        while not num_images(lower) and len(more := subfolders(lower)) == 1 and not split_of(more[0]):
            lower /= more[0]
        lower = lower.parent if num_images(lower) else lower
        first = f"type data.root={shlex.quote(str(lower))}" if is_root else f"move them up into {folder}"
        down = f"if the classes are in {deep[0]}/, {first}" if len(names) == 1 or not is_root else ""
        down = down or f"if the classes are inside, choose one of these folders: {first}"
        raise BadData(
            f"the class folders {quoted(deep)} in {folder} hold no images themselves; the images are in the folders "
            f"{quoted(inner, 6)}",
            hint=f"{down}; {up}",
        )
    if all(names_a_split(name) for name in names):
        raise BadData(
            f"the folders {quoted(names)} in {folder} would become classes, and their names are those of splits",
            hint="name them train, val and test, each with one folder for each class",
        )
    if len(names) == 1:
        raise BadData(
            f"{folder} has only one class folder, {names[0]}/ with {len(train)} images; there must be two or more",
            hint=f"make one folder for each class in {folder}",
        )


def require_same_classes(train: Listing, split: Split, other: Listing) -> None:
    missing = [name for name in train.files if name not in other.files]
    added = [name for name in other.files if name not in train.files]
    if not missing and not added:
        return
    sides = [f"only in {train.folder.name}/: {quoted(missing)}"] if missing else []
    sides += [f"only in {other.folder.name}/: {quoted(added)}"] if added else []
    alike = [" and ".join(names) for names in look_alikes([*missing, *added]).values() if len(names) > 1]
    hint = f"make the class folders of {train.folder.name}/ and {other.folder.name}/ the same"
    if split == "test":
        hint += f", or move {other.folder.name}/ out of data.root: training does not use it"
    raise BadData(
        f"{train.folder} and {other.folder} have different classes; {'; '.join(sides)}",
        hint=f"these differ only in how they are written: {quoted(alike)}; rename one of each" if alike else hint,
    )


def look_alikes(names: tuple[str, ...] | list[str]) -> dict[str, list[str]]:
    """Names that differ only in case, in space, - and _, or in how accents are encoded (a Mac's archives), together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold().replace("-", "_").replace(" ", "_").strip("_")
        groups.setdefault(key, []).append(name)
    return groups
