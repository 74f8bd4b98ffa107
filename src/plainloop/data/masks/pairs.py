"""Which images a data set with masks has in each split, and which mask belongs to which, without opening any."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plainloop.contracts import Split
from plainloop.data.loading import layout
from plainloop.data.loading.layout import quoted
from plainloop.data.loading.stratify import held_out_by_name
from plainloop.data.text import lines_of
from plainloop.errors import BadData, counted

Pair = tuple[str, str]  # image and mask, from data.root
IMAGES = ("images", "image", "imgs", "img", "JPEGImages")  # names of the folders, tried in this order
MASKS = ("masks", "mask", "labels", "label", "annotations", "Annotations", "SegmentationClass")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Pairs:
    """All splits. Without a `val` of its own, every so many pairs of `train` validate."""

    root: Path
    train: list[Pair]
    val: list[Pair]
    test: list[Pair] = field(default_factory=list)
    notes: tuple[str, ...] = ()  # for the plan

    @property
    def splits(self) -> dict[Split, list[Pair]]:
        named: dict[Split, list[Pair]] = {"train": self.train, "val": self.val, "test": self.test}
        return {split: pairs for split, pairs in named.items() if pairs}

    def file_names(self) -> Iterator[str]:
        return (f"{split}/{name}" for split, pairs in self.splits.items() for pair in pairs for name in pair)

    def files_hash(self) -> str:
        digest = hashlib.sha256()
        for name in self.file_names():
            digest.update(os.fsencode(name) + b"\n")
        return digest.hexdigest()[:16]


@dataclass(kw_only=True, eq=False)
class Naming:
    """How the files are called.

    Args:
        image_dir, mask_dir: names of the folders. None: those that are usual.
        image_suffix, mask_suffix: what stands between the common name of an image and its mask and the extension.
        lists: instead of folders, files with a line for each image and its mask; {split} in the name is train, val or
            test. With `image_dir` and `mask_dir`, a line may be the common name alone.
        separator: between image and mask in a line.
    """

    image_dir: str | None = None
    mask_dir: str | None = None
    image_suffix: str = ""
    mask_suffix: str = ""
    lists: str | None = None
    separator: str = " "


def find_pairs(root: str, naming: Naming, *, val_fraction: float) -> Pairs:
    """Raises BadData for what cannot be trained on, with what to do about it."""
    base = Path(root).expanduser()
    if not base.is_dir():
        what = "is a file" if base.exists() else "does not exist"
        raise BadData(f"data.root={root} {what}", hint="set data.root=<folder with the images and the masks>")
    found, notes = listed(base, naming) if naming.lists else in_folders(base, naming)
    if not found.get("train"):
        raise BadData(
            f"data.root={root} has no training images with masks", hint="see docs/segmentation.md for the folders"
        )
    train, val = found["train"], found.get("val", [])
    if not val:
        held_out = {train[i] for i in held_out_by_name([image for image, _ in train], val_fraction)}
        train, val = [pair for pair in train if pair not in held_out], sorted(held_out)
        notes.append(f"val takes {val_fraction:g} of train")
    if not val:
        raise BadData(f"data.root={root} has one image with a mask, and two are needed", hint="add images")
    return Pairs(base, train, val, found.get("test", []), tuple(notes))


def in_folders(base: Path, naming: Naming) -> tuple[dict[Split, list[Pair]], list[str]]:
    """images/<split> and masks/<split>, <split>/images and <split>/masks, or images and masks alone."""
    found: dict[Split, list[Pair]] = {}
    notes: list[str] = []
    for split in SPLITS:
        for name in layout.subfolders(base):
            if layout.split_of(name) == split and chosen(base / name, naming.image_dir, IMAGES):
                places = folders_of(base / name, naming)
                found[split] = pairs_of(base, *places, naming, notes)
    if found:
        return found, notes
    images, masks = folders_of(base, naming)
    for split in SPLITS:
        of_images, of_masks = (
            [name for name in layout.subfolders(place) if layout.split_of(name) == split] for place in (images, masks)
        )
        if of_images and of_masks:
            found[split] = pairs_of(base, images / of_images[0], masks / of_masks[0], naming, notes)
    return found or {"train": pairs_of(base, images, masks, naming, notes)}, notes


def chosen(place: Path, given: str | None, names: tuple[str, ...]) -> Path | None:
    return next((place / name for name in ([given] if given else names) if (place / name).is_dir()), None)


def folders_of(place: Path, naming: Naming) -> tuple[Path, Path]:
    images, masks = chosen(place, naming.image_dir, IMAGES), chosen(place, naming.mask_dir, MASKS)
    if images is None or masks is None:
        missing, key, names = ("images", "image_dir", IMAGES) if images is None else ("masks", "mask_dir", MASKS)
        there = quoted(layout.subfolders(place)) or "none"
        lists = sorted(path.name for path in place.glob("*train*.txt"))
        also = f"; for the file list {lists[0]} type data=mask_lists" if lists else ""
        raise BadData(
            f"{place} has no folder of {missing} called {', '.join(names)}; it has the folders {there}",
            hint=f"name it, or type data.{key}=<its name>{also}",
        )
    return images, masks


def pairs_of(base: Path, images: Path, masks: Path, naming: Naming, notes: list[str]) -> list[Pair]:
    """Each image with the mask that has the same name, whatever their extensions."""
    of_images, of_masks = files_in(images, naming.image_suffix), files_in(masks, naming.mask_suffix)
    if missing := [path for name, path in of_images.items() if name not in of_masks]:
        name = next(name for name in of_images if name not in of_masks)
        raise BadData(
            f"{len(missing)} of {len(of_images)} images in {images} have no mask: {quoted(missing, 3)}; expected "
            f"{masks / name}{naming.mask_suffix}.png",
            hint="add the masks, or move these images out; masks with longer names: data.mask_suffix=_mask",
        )
    if alone := [path for name, path in of_masks.items() if name not in of_images]:
        notes.append(f"not used: {counted(len(alone), 'mask')} without an image in {masks}: {quoted(alone, 3)}")
    start = images.relative_to(base), masks.relative_to(base)
    return [(str(start[0] / path), str(start[1] / of_masks[name])) for name, path in of_images.items()]


def files_in(folder: Path, suffix: str) -> dict[str, str]:
    """Name without suffix and extension -> path, of all images in a folder and in those inside it; sorted."""
    found: dict[str, str] = {}
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not layout.is_leftover(name)]
        for file in files:
            path = os.path.relpath(os.path.join(where, file), folder)
            stem = os.path.splitext(path)[0]
            if layout.is_image(file) and stem.endswith(suffix):
                found[stem.removesuffix(suffix)] = path
    return dict(sorted(found.items()))


def listed(base: Path, naming: Naming) -> tuple[dict[Split, list[Pair]], list[str]]:
    """`lists` is a file name with {split} in it: lines of an image and its mask, or of a name that both have."""
    assert naming.lists is not None
    found: dict[Split, list[Pair]] = {}
    for split in SPLITS:
        file = base / naming.lists.replace("{split}", split)
        if not file.is_file():
            continue
        lines = lines_of(file)
        found[split] = [pair_of(base, file, number, line, naming) for number, line in enumerate(lines, 1) if line]
        missing = [name for pair in found[split] for name in pair if not (base / name).is_file()]
        if missing:
            raise BadData(
                f"{file} names {counted(len(missing), 'file')} not in {base}: {quoted(missing, 3)}",
                hint="the paths in a list begin in data.root",
            )
    if "train" not in found:
        raise BadData(
            f"there is no {base / naming.lists.replace('{split}', 'train')}",
            hint="lists are called as data.lists says, with train, val and test for {split}",
        )
    return found, [f"{split} from {naming.lists.replace('{split}', split)}" for split in found]


def pair_of(base: Path, file: Path, number: int, line: str, naming: Naming) -> Pair:
    parts = line.split(naming.separator)
    if len(parts) == 2:
        return parts[0], parts[1]
    if len(parts) == 1 and naming.image_dir and naming.mask_dir:
        name = parts[0]
        return (
            f"{naming.image_dir}/{name}{naming.image_suffix}.jpg",
            f"{naming.mask_dir}/{name}{naming.mask_suffix}.png",
        )
    raise BadData(
        f"{file}, line {number}: expected an image and its mask, with data.separator={naming.separator!r} between "
        f"them, got {line!r}",
        hint="set data.separator to what stands between them",
    )
