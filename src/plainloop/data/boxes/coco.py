"""Photographs with boxes, or with the outlines of objects, from annotation files in COCO's form.

This module has no `from __future__ import annotations`: the check reads these types in the signature.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from plainloop.contracts import Split
from plainloop.data.boxes.boxed_files import BoxedFiles, Splits, remembered, require_images, settled, stamp_of
from plainloop.data.boxes.files.clean import Part
from plainloop.data.boxes.files.coco_file import read_coco
from plainloop.data.loading import layout
from plainloop.data.loading.layout import quoted
from plainloop.data.masks.pairs import IMAGES, SPLITS
from plainloop.errors import BadData, counted

ANNOTATIONS = ("annotations", "Annotations", "annotation")
# Beside the annotations of objects, COCO has these; they are for other tasks, or have no objects.
OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info", "_annotations.createml")
LAYOUTS = (
    "one of these layouts: annotations/instances_train2017.json with train2017/ (COCO's own); "
    "train/_annotations.coco.json with the images beside it (Roboflow); train.json or annotations.json with "
    "JPEGImages/ (PaddleX); for others type data.train.annotations=<file> data.train.images=<folder>, and so for val; "
    "YOLO's text files are not read: export them as COCO"
)
TRIED = 50  # image names that a folder is tried with


@dataclass(kw_only=True, eq=False)
class CocoBoxes(BoxedFiles):
    """`root` has annotation files and folders of images, as COCO, Roboflow and PaddleX lay them out; see LAYOUTS.

    Otherwise `train.annotations` is a file in `root` and `train.images` a folder, and so for val and test. Splits
    may number their categories in different ways: names decide. Images are resized by one factor to fit `image_size`.

    Args:
        instance_masks: reads `segmentation`, too, and batches have instance_mask.

    Raises BadData for files that cannot be trained on; batches raise it for a damaged image and one of another size
    than its annotations say.
    """

    instance_masks: bool = False

    def found(self) -> Splits:
        key = (self.root, self.names(), self.instance_masks, self.val_fraction, repr(self.of_split), self.on_bad_image)
        return remembered(self._find, "coco", *key)

    def _find(self) -> Splits:
        base, chosen = self.base, self.names()
        files = files_of(base, self.of_split)
        watched = {str(path): stamp_of(path) for path in (base, *files.values())}
        parts: dict[Split, Part] = {}
        missing: dict[Split, list[str]] = {}
        listed: dict[str, set[str]] = {}
        for split, file in files.items():
            part = read_coco(file, os.path.relpath(file, base), with_masks=self.instance_masks)
            given = self.of_split[split]["images"]
            if given and not (base / given).is_dir():
                raise BadData(
                    f"data.{split}.images={given}: there is no folder {base / given}",
                    hint="the path begins in data.root",
                )
            paths = paths_of(base, file, part, [base / given] if given else list(folders_for(base, split, file)))
            missing[split] = [path for path in paths if not is_there(base, path, listed)]
            images = np.array([os.fsencode(path) for path in paths], np.bytes_)
            parts[split] = replace(part, annotated=replace(part.annotated, images=images))
        watched |= {str(base / folder): stamp_of(base / folder) for folder in listed}
        if self.on_bad_image == "raise":
            require_images(missing, parts)
        names = chosen or classes_of(parts)
        known = {name for part in parts.values() for name in part.class_names}
        if unknown := [name for name in names if name not in known]:
            raise BadData(
                f"data.class_names: no annotation file lists {quoted(unknown, 5)}; they list "
                f"{quoted(sorted(known), 20)}",
                hint=nearest_names(names, known),
            )
        found = settled(
            base,
            parts,
            class_names=names,
            leave_out_others=chosen is not None,
            val_fraction=self.val_fraction,
            missing=missing,
        )
        notes = (*found.notes, *remarks(parts, names, listed, chosen is not None), *unused(base, files))
        return replace(found, watched=watched, notes=notes)


def nearest_names(names: Sequence[str], known: set[str]) -> str:
    """What to type for names of which some are misspelt; "" where one is like none of the known.

    >>> nearest_names(["circle", "sqare"], {"circle", "square"}), nearest_names(["cat"], {"square"})
    ('data.class_names=[circle,square]', '')
    """
    near = [name if name in known else next(iter(get_close_matches(name, known)), "") for name in names]
    if not all(near) or len(set(near)) < len(near):
        return ""
    plain = all(re.fullmatch(r"[\w.-]+", name) for name in near)
    return f"data.class_names=[{','.join(near)}]" if plain else f'"data.class_names={near}"'


def unused(base: Path, files: dict[Split, Path]) -> Iterator[str]:
    """A file for val that nobody has named, beside the one that is named for train."""
    if "val" not in files:
        for path in sorted(set(json_files(base)) - set(files.values())):
            if split_of_file(base, path) == "val" and not path.name.startswith((*OTHER_TASKS, ".")):
                name = path.relative_to(base)
                yield f"{name} is not used: type data.val.annotations={name}"


def split_of_file(base: Path, path: Path) -> Split | None:
    words = [path.parent.name] * (path.parent != base) + re.split(r"[^a-zA-Z]+", path.stem)
    return next((split for split in map(layout.split_of, words) if split), None)


def classes_of(parts: dict[Split, Part]) -> tuple[str, ...]:
    """Those of train in the order of their ids, without names that only group others and have no object (Roboflow)."""
    used = {part.class_names[label] for part in parts.values() for label in np.unique(part.annotated.label)}
    train = parts["train"]
    return tuple(name for name in train.class_names if name in used or name not in train.parents)


def remarks(
    parts: dict[Split, Part], names: tuple[str, ...], listed: dict[str, set[str]], chosen: bool
) -> Iterator[str]:
    train = parts["train"]
    if not chosen and (groups := [name for name in train.class_names if name not in names]):
        yield f"not a class, because it only groups others and has no object: {quoted(groups)}"
    for split, part in parts.items():
        if [name for name in part.class_names if name in train.class_names] != [
            name for name in train.class_names if name in part.class_names
        ]:
            yield f"{split} numbers its categories in another order than train: their names decide"
    used = {os.fsdecode(path) for part in parts.values() for path in part.annotated.images}
    there = {os.path.join(folder, name) for folder, names in listed.items() for name in names if layout.is_image(name)}
    if alone := sorted(there - used):
        yield f"not used: {counted(len(alone), 'image')} that no annotation file lists: {quoted(alone, 3)}"


def files_of(base: Path, of_split: dict[Split, dict[str, str | None]]) -> dict[Split, Path]:
    """The annotation file of each split: what train.annotations and so on name, and for others what is found.

    Raises BadData.
    """
    named = {split: base / own["annotations"] for split, own in of_split.items() if own["annotations"]}
    for split, path in named.items():
        if not path.is_file():
            there = quoted([str(path.relative_to(base)) for path in json_files(base)], 5) or "none"
            raise BadData(
                f"data.{split}.annotations={of_split[split]['annotations']}: there is no file {path}",
                hint=f"the path begins in data.root, where these JSON files are: {there}",
            )
    return named if "train" in named else search(base, named) | named


def json_files(base: Path) -> list[Path]:
    """In `base`, its folder of annotations, and folders named as splits."""
    inside = [name for name in layout.subfolders(base) if name in ANNOTATIONS or layout.split_of(name)]
    return [path for folder in (base, *(base / name for name in inside)) for path in sorted(folder.glob("*.json"))]


def search(base: Path, named: Mapping[Split, Path]) -> dict[Split, Path]:
    """The annotation file of each split that is not named, by the names of files and folders. Raises BadData."""
    there = [path for path in json_files(base) if not path.name.startswith((*OTHER_TASKS, "."))]
    there = [path for path in there if path not in named.values()]
    found: dict[Split, list[Path]] = {}
    for path in there:
        if (split := split_of_file(base, path)) and split not in named:
            found.setdefault(split, []).append(path)
    if not found and len(there) == 1:
        found = {"train": there}
    for split, paths in found.items():
        paths[:] = [path for path in paths if path.name.startswith("instances_")] or paths
        if len(paths) > 1:
            names = quoted([str(path.relative_to(base)) for path in paths], 5)
            raise BadData(
                f"{base} has several annotation files for {split}: {names}",
                hint=f"choose one: data.{split}.annotations=<file>, and those of the other splits beside it",
            )
    if "train" not in found:
        names = quoted([str(path.relative_to(base)) for path in there], 5) or "no JSON files"
        inside = [name for name in layout.subfolders(base) if json_files(base / name)]
        also, hint = "", LAYOUTS
        if named:
            split, file = next(iter(named.items()))
            also = f" beside the one that data.{split}.annotations names"
            hint = f"data.train.annotations={file.relative_to(base)}, or another file with the same categories"
        elif inside and not there:
            also, hint = f"; {inside[0]}/ inside has some", f"data.root={base / inside[0]}"
        elif not there and layout.split_of(base.absolute().name) and json_files(base.absolute().parent):
            also, hint = "; the folder around it has some", f"data.root={base.parent}"
        elif xml := next((found for depth in ("", "*/", "*/*/") for found in base.glob(f"{depth}*.xml")), None):
            also, hint = f"; {xml.relative_to(base)} may be in Pascal VOC's form", "data=voc_boxes"
        raise BadData(f"{base} has no annotation file for train; it has {names}{also}", hint=hint)
    return {split: found[split][0] for split in SPLITS if split in found}


def folders_for(base: Path, split: Split, file: Path) -> Iterator[Path]:
    """Where the images of an annotation file may be, in the order in which they are tried."""
    tops = [file.parent, base, *(base / name for name in IMAGES if (base / name).is_dir())]
    for top in tops:
        yield top / file.stem.removeprefix("instances_")
        yield from (top / name for name in layout.subfolders(top) if layout.split_of(name) == split)
    yield from tops


def paths_of(base: Path, file: Path, part: Part, folders: Sequence[Path]) -> list[str]:
    """The images' paths from `base`, in the folder that has them. Raises BadData if none has."""
    names = [os.fsdecode(name) for name in part.annotated.images]
    tried = names[:: max(1, len(names) // TRIED)][:TRIED]
    for short in (False, True):  # file_name may be a path on another machine
        ends = [os.path.basename(name) if short else name for name in tried]
        score = [sum((folder / end).is_file() for end in ends) for folder in folders]
        if max(score, default=0):
            folder = os.path.relpath(folders[score.index(max(score))], base)
            ends = [os.path.basename(name) if short else name for name in names]
            paths = [os.path.normpath(os.path.join(folder, end)) for end in ends]
            twice, times = Counter(paths).most_common(1)[0]
            if times > 1:
                raise BadData(
                    f"{part.where} lists the image {twice} {times} times, with different ids",
                    hint="give it one entry, to which all of its objects belong",
                )
            return paths
    if not names:
        raise BadData(f"{part.where} lists no images", hint="export it again, with the images")
    places = list(dict.fromkeys(os.path.relpath(folder, base) for folder in folders if folder.is_dir()))
    raise BadData(
        f"none of the {counted(len(names), 'image')} of {part.where} is there, such as {names[0]}; looked in "
        f"{quoted(['data.root' if place == '.' else place for place in places], 6) or 'no folder'}",
        hint=f"put the images there, or say where they are: data.train.images=<folder> (or val, test) beside "
        f"data.train.annotations={os.path.relpath(file, base)}",
    )


def is_there(base: Path, path: str, listed: dict[str, set[str]]) -> bool:
    """Whether a file is there; its folder is listed once, because asking for each of 100,000 files is slow."""
    folder, name = os.path.split(path)
    if folder not in listed:
        place = base / folder
        listed[folder] = set(os.listdir(place)) if place.is_dir() else set()
    return name in listed[folder]
