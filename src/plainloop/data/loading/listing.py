"""Which image files a folder of class folders holds, without opening any."""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plainloop.contracts import Split
from plainloop.data.loading import layout
from plainloop.data.loading.layout import EXTENSIONS, quoted
from plainloop.data.loading.stratify import Fold, num_held_out, numbers_of
from plainloop.errors import BadData

SIZES_UP_TO = 100_000  # images; on network storage it takes minutes to ask for the sizes of more


@dataclass(frozen=True)
class Listing:
    """For each class, in order, its files' sorted paths from `folder`; classes are folders, or in a file of labels."""

    folder: Path
    files: dict[str, list[str]]
    skipped: Counter[str] = field(default_factory=Counter)  # files that are no images, by extension
    stray: int = 0  # images that lie in no class folder
    changed: dict[str, int] = field(default_factory=dict)  # each folder inside: when a name in it changed last
    labels_file: Path | None = None  # None: classes are folders
    groups: dict[str, str] | None = None  # of each path: what stays together in a fold

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def labels(self) -> Iterator[int]:
        return (label for label, names in enumerate(self.files.values()) for _ in names)

    @property
    def paths(self) -> Iterator[str]:
        return (name for names in self.files.values() for name in names)

    @property
    def group_of_each(self) -> list[str] | None:
        return None if self.groups is None else [self.groups[path] for path in self.paths]

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))


@dataclass(frozen=True)
class Listings:
    """All splits of a data set. Without its own folder, validation takes `val_fraction` of each class of `train`."""

    root: Path
    train: Listing
    val: Listing | None
    test: Listing | None
    val_fraction: float
    fold: Fold | None = None  # the part of train that is validated on instead, where val is None

    def only(self, classes: Sequence[str | int]) -> Listings:
        """These classes alone, in the order that they have. Raises ValueError."""
        names = [self.train.class_names[number] for number in numbers_of(classes, self.train.class_names)]

        def part(listing: Listing | None) -> Listing | None:
            return listing and replace(listing, files={name: listing.files[name] for name in names})

        train = part(self.train)
        assert train
        return replace(self, train=train, val=part(self.val), test=part(self.test))

    def in_folds(self, folds: int, number: int) -> Listings:
        """With a fold of train for validation. Raises ValueError for more folds than images or groups."""
        return replace(self, val=None, test=self.test or self.val, fold=Fold(folds, number))

    @property
    def splits(self) -> dict[Split, Listing]:
        named: dict[Split, Listing | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {split: listing for split, listing in named.items() if listing is not None}

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class."""
        counts = [len(names) for names in self.train.files.values()]
        if self.fold is not None:
            held_out = self.fold.counts(counts, self.train.group_of_each)
            return tuple(n - out for n, out in zip(counts, held_out, strict=True))
        return tuple(n - (num_held_out(n, self.val_fraction) if self.val is None else 0) for n in counts)

    @property
    def num_val(self) -> int:
        return len(self.train) - sum(self.class_counts) if self.val is None else len(self.val)

    def file_names(self) -> Iterator[str]:
        """split/class/file of every image."""
        return (
            f"{split}/{path}" if listing.labels_file is None else f"{split}/{name}/{path}"
            for split, listing in self.splits.items()
            for name, paths in listing.files.items()
            for path in paths
        )

    def sizes(self) -> list[int]:
        """Bytes of each file, in the order of `file_names`; -1: not to be had. [] where there are too many files."""
        if sum(map(len, self.splits.values())) > SIZES_UP_TO:
            return []
        return [size_of(f"{listing.folder}/{path}") for listing in self.splits.values() for path in listing.paths]

    def sized_names(self) -> Iterator[str]:
        """The file names, each with a tab and its size where sizes are asked for."""
        named = itertools.zip_longest(self.file_names(), self.sizes())
        return (name if size is None else f"{name}\t{size}" for name, size in named)

    def files_hash(self) -> str:
        digest = hashlib.sha256()
        for name in self.file_names():
            digest.update(os.fsencode(name) + b"\n")
        return digest.hexdigest()[:16]

    def is_current(self) -> bool:
        """Whether no file has been added or removed since."""
        changed = {place: then for listing in self.splits.values() for place, then in listing.changed.items()}
        return all(os.path.exists(place) and os.stat(place).st_mtime_ns == then for place, then in changed.items())

    def plan_lines(self) -> list[str]:
        """What is used, and what is not."""
        where = {split: _source(listing) for split, listing in self.splits.items()}
        if self.val is None and self.train.folder == self.root and not self.train.labels_file:
            where = {"train": "data.root"}
        lines = [f"{split} from {where[split]} ({len(self.splits[split])} images)" for split in where]
        if self.fold is not None:
            together = " with whole groups" if self.train.groups is not None else " of each class"
            lines.append(
                f"val is fold {self.fold.number} of {self.fold.folds} (0 to {self.fold.folds - 1}){together} of train"
            )
        elif self.val is None:
            lines.append(f"val takes {self.val_fraction:g} of each class of train")
        lines = [", ".join(lines)]
        stray = sum(listing.stray for listing in self.splits.values())
        if self.train.labels_file:
            if stray:
                lines.append(f"images in the same folders that {self.train.labels_file.name} does not list: {stray}")
        else:
            lines += self._of_class_folders(stray)
        if alike := [names for names in layout.look_alikes(self.train.class_names).values() if len(names) > 1]:
            lines.append(f"different classes with almost the same name: {quoted([' and '.join(n) for n in alike])}")
        if sum(map(len, self.splits.values())) > SIZES_UP_TO:
            lines.append(f"not looked for: empty files, because there are more than {SIZES_UP_TO} images")
        return lines

    def _of_class_folders(self, stray: int) -> Iterator[str]:
        used = (
            self.train.files if self.train.folder == self.root else [part.folder.name for part in self.splits.values()]
        )
        if unused := sorted(e.name + "/" for e in os.scandir(self.root) if e.is_dir() and e.name not in used):
            yield f"not used: {quoted(unused)}"
        if skipped := sum((listing.skipped for listing in self.splits.values()), Counter()):
            yield f"skipped files: {numbered(skipped)}"
        if stray:
            yield f"skipped images that lie in no class folder: {stray}"
        if deeper := [path.rpartition("/")[0] for path in self.train.paths if path.count("/") > 1]:
            yield f"images in folders inside class folders are used too: {quoted(sorted(set(deeper)))}"


_last: list[tuple[Any, Listings]] = []  # the newest one: the check asks for it several times


def remembered(find: Callable[..., Listings], root: str, *arguments: Any, val_fraction: float) -> Listings:
    """The listings that `find` gives, once while no file changes. Raises BadData for what cannot be trained on."""
    if not 0 < val_fraction < 1:
        raise ValueError(f"data.val_fraction={val_fraction} must lie between 0 and 1, such as 0.2")
    key = (find, root, *arguments, val_fraction)
    if _last and _last[0][0] == key and _last[0][1].is_current():
        return _last[0][1]
    base = Path(root).expanduser()
    if not base.is_dir():
        what = "is a file" if base.exists() else "does not exist"
        raise BadData(
            f"data.root={root} {what}", hint="set data.root=<folder with train/ and val/, or with one folder a class>"
        )
    listings = find(root, base, *arguments, val_fraction=val_fraction)
    if listings.num_val == 0:
        where = listings.train.labels_file or listings.train.folder
        raise BadData(
            f"no class of {where} has two images, one to train on and one for data.val_fraction={val_fraction}",
            hint="add images, or "
            + (
                "give data.val.labels=<file>"
                if listings.train.labels_file
                else f"put some of each class into {base / 'val'}"
            ),
        )
    _last[:] = [(key, listings)]
    return listings


def list_splits(root: str, *, val_fraction: float) -> Listings:
    """Finds the folders of train, val and test in `root`, or class folders alone.

    Raises BadData for what cannot be trained on, with what to do about it.
    """
    return remembered(_list_folders, root, val_fraction=val_fraction)


def _list_folders(root: str, base: Path, *, val_fraction: float) -> Listings:
    names = layout.find_splits(root, base)
    if "test" in names and not layout.subfolders(base / names["test"]):
        del names["test"]  # images without labels
    changed = os.stat(base).st_mtime_ns
    train = list_classes(base / names.get("train", ""))
    train.changed[str(base)] = changed
    parts = {split: list_classes(base / name) for split, name in names.items() if split != "train"}
    for split, part in parts.items():
        layout.require_same_classes(train, split, part)
    layout.require_class_folders(train, is_root=not names)
    return Listings(base, train, parts.get("val"), parts.get("test"), val_fraction)


def _source(listing: Listing) -> str:
    return listing.labels_file.name if listing.labels_file else f"{listing.folder.name}/"


def list_classes(folder: Path) -> Listing:
    names, stray = layout.subfolders(folder), layout.num_images(folder)
    listing = Listing(folder, {}, stray=stray, changed={str(folder): os.stat(folder).st_mtime_ns})
    for name in names:
        listing.files[name] = list_images(listing, name)
    others = f"; other files there: {numbered(listing.skipped)}" if listing.skipped else ""
    if not any(listing.files.values()):
        inside = f"its folders {quoted(names)} hold none{others}" if names else "it has no class folders"
        inside += f", and {stray} images lie directly in it" if stray else ""
        raise BadData(
            f"no images in class folders in {folder}: {inside}",
            hint=f"make one folder for each class in it, with files ending in {', '.join(EXTENSIONS)}",
        )
    if empty := [name for name in names if not listing.files[name]]:
        raise BadData(
            f"class folders without images in {folder}: {quoted(empty)}{others}",
            hint=f"put files ending in {', '.join(EXTENSIONS)} into them, or move them out of {folder}",
        )
    return listing


def list_images(listing: Listing, name: str) -> list[str]:
    """Image files of one class folder and of those inside it, without hidden ones; sorted, with the class in front."""
    found, start = [], len(str(listing.folder)) + 1
    for where, folders, files in os.walk(listing.folder / name, followlinks=True):
        listing.changed[where] = os.stat(where).st_mtime_ns
        folders[:] = [inner for inner in folders if not layout.is_leftover(inner)]
        found += [f"{where[start:]}/{file}" for file in files if layout.is_image(file)]
        others = (file for file in files if not layout.is_image(file) and not file.startswith("."))
        listing.skipped.update(os.path.splitext(file)[1].lower() or "without extension" for file in others)
    return sorted(found)


def numbered(kinds: Counter[str]) -> str:
    """
    >>> numbered(Counter({".txt": 1, ".gif": 2}))
    '2 .gif, 1 .txt'
    """
    return quoted([f"{number} {kind}" for kind, number in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))])


def size_of(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return -1  # such as a link that leads nowhere: decoding says what is wrong with it
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def refuse_empty_files(listings: Listings) -> None:
    paths = (f"{listing.folder}/{path}" for listing in listings.splits.values() for path in listing.paths)
    if empty := [path for path, size in zip(paths, listings.sizes(), strict=False) if size == 0]:
        raise BadData(
            f"{len(empty)} image files are empty (0 bytes): {quoted(empty, 5)}",
            hint=f"copy them again, or delete them: find {shlex.quote(str(listings.root))} -type f -empty -delete "
            "(a run that has begun can go on without them: data.allow_changed=true); or type data.on_bad_image=skip",
        )
