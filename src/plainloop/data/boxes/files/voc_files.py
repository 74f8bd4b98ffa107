"""Which images and XML files a data set in Pascal VOC's form has, and what one such file says."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plainloop.contracts import Split
from plainloop.data.boxes.annotations import Annotated, offsets
from plainloop.data.boxes.files.clean import Part
from plainloop.data.boxes.files.other_forms import are_fractions
from plainloop.data.boxes.files.voc_xml import read_xml
from plainloop.data.loading import layout
from plainloop.data.loading.layout import quoted
from plainloop.data.masks.pairs import IMAGES, SPLITS
from plainloop.data.text import lines_of
from plainloop.errors import BadData, counted

Pair = tuple[str, str]  # image and XML file, from data.root
FOLDERS = (*IMAGES, "annotations", "Annotations", "annotation", "labels", "label", "xml", "xmls")
LAYOUTS = (
    "one of these layouts: VOC2007/ with ImageSets/Main/train.txt, JPEGImages/ and Annotations/ (Pascal VOC, one "
    "year or several); train_list.txt and val_list.txt with a line 'JPEGImages/1.jpg Annotations/1.xml' for each image "
    "(PaddleX); 1.jpg and 1.xml side by side or in two folders, in train/ and val/ or not (LabelImg); "
    "YOLO's text files are not read: export them as Pascal VOC"
)


@dataclass(frozen=True)
class Pairs:
    """The images of each split with their annotations; `where` says what they were found by."""

    of_split: dict[Split, list[Pair]]
    where: dict[Split, str]
    notes: tuple[str, ...] = ()
    is_voc: bool = False  # folders are called as Pascal VOC's own


def find_pairs(base: Path, of_split: Mapping[Split, Mapping[str, str | None]]) -> Pairs:
    """Raises BadData for a folder in which nothing is found, with what is expected."""
    given = {split: own["list"] for split, own in of_split.items() if own["list"]}
    lists = {split: base / (of_split[split]["list"] or f"{split}_list.txt") for split in SPLITS}
    years = [base / name for name in ("", *layout.subfolders(base)) if (base / name / "ImageSets" / "Main").is_dir()]
    years = years or sorted(path.parent.parent for path in base.glob("VOCdevkit/*/ImageSets/Main"))
    if any(own["annotations"] for own in of_split.values()):
        return named_folders(base, of_split)
    if lists["train"].is_file() or (given and not years):
        require_lists(given, [base], sorted(path.name for path in base.glob("*.txt")), "")
        return listed_pairs(base, {split: path for split, path in lists.items() if path.is_file()})
    if years:
        folders = [year / "ImageSets" / "Main" for year in years]
        require_lists(given, folders, plain_lists(years), ".txt")
        return voc_pairs(base, years, {split: own["list"] or split for split, own in of_split.items()})
    images, annotations = (found_files(base, base, is_wanted) for is_wanted in (layout.is_image, is_xml))
    return by_names(base, images, annotations)


def require_lists(given: Mapping[Split, str], folders: Sequence[Path], there: Sequence[str], ending: str) -> None:
    """Raises BadData for a list that is in none of the folders."""
    for split, name in given.items():
        if not any((folder / f"{name}{ending}").is_file() for folder in folders):
            raise BadData(
                f"data.{split}.list={name}: there is no such list in {folders[0]}; it has {quoted(there, 6) or 'none'}",
                hint=f"choose one of these, or leave data.{split}.list out" if there else LAYOUTS,
            )


def plain_lists(years: Sequence[Path]) -> list[str]:
    """The lists of ImageSets/Main, without those of single classes where there are others."""
    there = sorted({path.stem for year in years for path in (year / "ImageSets" / "Main").glob("*.txt")})
    return [name for name in there if "_" not in name] or there


def once(pairs: Sequence[Pair], where: str) -> None:
    """Raises BadData for an image that a list has twice."""
    for image, times in Counter(image for image, _ in pairs).most_common(1):
        if times > 1:
            raise BadData(f"{where} lists the image {image} {times} times", hint="take the other lines out")


def is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def found_files(base: Path, place: Path, is_wanted: Callable[[str], bool]) -> list[str]:
    """Paths from `base` of the files in a folder and in those inside it, sorted."""
    found = []
    for where, folders, files in os.walk(place, followlinks=True):
        folders[:] = [name for name in folders if not layout.is_leftover(name)]
        found += [os.path.relpath(os.path.join(where, name), base) for name in files if is_wanted(name)]
    return sorted(found)


def named_folders(base: Path, of_split: Mapping[Split, Mapping[str, str | None]]) -> Pairs:
    """train.annotations is a folder of XML files, train.images one of images."""
    pairs: dict[Split, list[Pair]] = {}
    notes: list[str] = []
    for split, own in of_split.items():
        if not own["annotations"]:
            continue
        places = [base / (own[key] or own["annotations"]) for key in ("images", "annotations")]
        for key, place in zip(("images", "annotations"), places, strict=True):
            if not place.is_dir():
                raise BadData(
                    f"data.{split}.{key}={own[key]}: there is no folder {place}", hint="the path begins in data.root"
                )
        files = [
            found_files(place, place, wanted) for place, wanted in zip(places, (layout.is_image, is_xml), strict=True)
        ]
        starts = [os.path.relpath(place, base) for place in places]
        matched, alone = match(*files, where=str(own["annotations"]))
        pairs[split] = [(os.path.join(starts[0], a), os.path.join(starts[1], b)) for a, b in matched]
        notes += alone
    if "train" not in pairs:
        split = next(iter(pairs))
        typed = [f"data.train.{key}={name}" for key in ("annotations", "images") if (name := of_split[split][key])]
        raise BadData(
            f"data.train.annotations: must be given, too, beside data.{split}.annotations",
            hint=f"{' '.join(typed)}, or other folders to train on",
        )
    return Pairs(pairs, {split: str(of_split[split]["annotations"]) for split in pairs}, tuple(notes))


def listed_pairs(base: Path, lists: Mapping[Split, Path]) -> Pairs:
    """PaddleX: a line has an image and its XML file, from `base`; a name may hold spaces."""
    pairs: dict[Split, list[Pair]] = {}
    for split, path in lists.items():
        pairs[split] = []
        for number, line in enumerate(lines_of(path), 1):
            found = re.fullmatch(r"\s*(.+?\.\w+)\s+(.+\.xml)\s*", line.replace("\\", "/"), re.IGNORECASE)
            if found:
                pairs[split].append((os.path.normpath(found[1]), os.path.normpath(found[2])))
            elif line.strip():
                raise BadData(
                    f"{path}, line {number}: expected an image and its XML file, got {line.strip()!r}",
                    hint="write such a line: JPEGImages/1.jpg Annotations/1.xml",
                )
        once(pairs[split], path.name)
    return Pairs(pairs, {split: path.name for split, path in lists.items()})


def voc_pairs(base: Path, years: Sequence[Path], names: Mapping[Split, str]) -> Pairs:
    """Pascal VOC: names of images in ImageSets/Main of all years, perhaps with 1, 0 or -1 behind them."""
    pairs: dict[Split, list[Pair]] = {}
    notes = []
    for split, name in names.items():
        files = [year / "ImageSets" / "Main" / f"{name}.txt" for year in years]
        for year, file in zip(years, files, strict=True):
            if not file.is_file():
                continue
            lines = [re.sub(r"\s+-?[01]$", "", line) for line in lines_of(file)]
            found = pairs_of_year(base, year, [line for line in lines if line])
            once(found, str(file.relative_to(base)))
            if split == "test" and not any((base / annotation).is_file() for _, annotation in found):
                notes.append(f"not used: {file.relative_to(base)}, whose images have no annotations")
            else:
                pairs.setdefault(split, []).extend(found)
    if "train" not in pairs:
        plain = plain_lists(years)
        chosen = "trainval" if "trainval" in plain else plain[0] if plain else None
        raise BadData(
            f"{base} has no list {names['train']}.txt in ImageSets/Main; it has {quoted(plain, 6) or 'no lists'}",
            hint=f"choose lists, such as data.train.list={chosen}" if chosen else LAYOUTS,
        )
    whole = [os.path.relpath(year, base) for year in years]
    where = ", ".join("data.root" if year == "." else year for year in whole)
    is_voc = all(re.fullmatch(r"VOC20\d\d", year.absolute().name) for year in years)
    return Pairs(pairs, {split: f"{names[split]}.txt of {where}" for split in pairs}, tuple(notes), is_voc)


def pairs_of_year(base: Path, year: Path, names: Sequence[str]) -> list[Pair]:
    start, place = os.path.relpath(year, base), year / "JPEGImages"
    there = {os.path.splitext(name)[0]: name for name in (os.listdir(place) if place.is_dir() else ())}
    folders = [os.path.normpath(os.path.join(start, folder)) for folder in ("JPEGImages", "Annotations")]
    return [(f"{folders[0]}/{there.get(name, f'{name}.jpg')}", f"{folders[1]}/{name}.xml") for name in names]


def by_names(base: Path, images: Sequence[str], annotations: Sequence[str]) -> Pairs:
    """LabelImg: the XML file of an image has its name; a folder in their paths may name the split."""
    if not annotations:
        inside = [*sorted(base.glob("*.json")), *sorted(base.glob("*/*.json"))][:1]
        also = f"; {inside[0].relative_to(base)} may be in COCO's form: data=coco" if inside else ""
        raise BadData(f"{base} has no XML files, and {counted(len(images), 'image')}{also}", hint=LAYOUTS)
    kinds: dict[Split | None, tuple[list[str], list[str]]] = {}
    for number, paths in enumerate((images, annotations)):
        for path in paths:
            named = map(layout.split_of, path.split(os.sep)[:-1])
            split = next((split for split in named if split), None)
            kinds.setdefault(split, ([], []))[number].append(path)
    with_xml: list[Split] = [split for split in SPLITS if split in kinds and kinds[split][1]]
    if with_xml and "train" not in with_xml:
        raise BadData(f"{base} has annotations for {quoted(with_xml)} and none for train", hint=LAYOUTS)
    pairs: dict[Split, list[Pair]] = {}
    notes: list[str] = []
    for split, (of_images, of_xml) in kinds.items():
        if of_xml and (split or not with_xml):
            pairs[split or "train"], alone = match(of_images, of_xml, where=split or "data.root")
            notes += alone
    if with_xml and None in kinds:
        notes.append(f"not used: {counted(len(kinds[None][0]), 'image')} outside of the folders of the splits")
    return Pairs(pairs, {split: f"{split}/" if with_xml else "data.root" for split in pairs}, tuple(notes))


def match(images: Sequence[str], annotations: Sequence[str], *, where: str) -> tuple[list[Pair], list[str]]:
    """Each XML file with the image of its name, in the same inner folder if the name is there twice. Raises BadData."""
    by_key: dict[str, list[str]] = {}
    for path in images:
        for key in {key_of(path), os.path.basename(key_of(path))}:
            by_key.setdefault(key, []).append(path)
    pairs, without = [], []
    for path in annotations:
        key = key_of(path)
        found = by_key.get(key) or by_key.get(os.path.basename(key)) or []
        if len(found) > 1:
            raise BadData(
                f"{path} fits several images: {quoted(found, 4)}", hint="give each its own name, and XML file"
            )
        if found:
            pairs.append((found[0], path))
        else:
            without.append(path)
    if without:
        raise BadData(
            f"{where}: {counted(len(without), 'XML file')} without an image: {quoted(without, 3)}; there are "
            f"{counted(len(images), 'image')}",
            hint="add the images, or move these XML files out; an image has the name of its XML file",
        )
    twice = [image for image, times in Counter(image for image, _ in pairs).items() if times > 1]
    if twice:
        raise BadData(f"{twice[0]} has several XML files", hint="keep one of them")
    used = {image for image, _ in pairs}
    alone = [path for path in images if path not in used]
    notes = f"not used: {counted(len(alone), 'image')} without an XML file (background needs one without objects): "
    return pairs, [notes + quoted(alone, 2)] if alone else []


def key_of(path: str) -> str:
    """
    >>> key_of("images/train/a/1.jpg"), key_of("Annotations/train/a/1.xml")
    ('a/1', 'a/1')
    """
    folder, name = os.path.split(os.path.splitext(path)[0])
    kept = [part for part in folder.split(os.sep) if part and part not in FOLDERS and not layout.split_of(part)]
    return os.path.join(*kept, name)


def read_split(base: Path, pairs: Sequence[Pair], where: str) -> Part:
    """Raises BadData for a file that says nothing clear."""
    names: dict[str, int] = {}
    sizes, boxes, labels, difficult, lengths = [], [], [], [], []
    for _, path in pairs:
        size, objects = read_xml(base / path, path)
        sizes.append(size)
        lengths.append(len(objects))
        for name, box, flag in objects:
            boxes.append(box)
            labels.append(names.setdefault(name, len(names)))
            difficult.append(flag)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    said = corners + np.array([1, 1, 0, 0], np.float32)
    if are_fractions(said):
        path = next(path for (_, path), length in zip(pairs, lengths, strict=True) if length)
        raise BadData(
            f"{where}: its boxes are fractions of the image, and Pascal VOC's are pixels: the first object of "
            f"{path} has xmin ymin xmax ymax {' '.join(f'{value:.4g}' for value in said[0])}",
            hint="export it again in Pascal VOC's form, or multiply xmin and xmax by the image's width and ymin and "
            "ymax by its height",
        )
    annotated = Annotated(
        images=np.array([os.fsencode(image) for image, _ in pairs], np.bytes_),
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        first=offsets(np.array(lengths, np.int64)),
        boxes=corners,
        label=np.array(labels, np.int64),
        crowd=np.zeros(len(labels), np.bool_),
        difficult=np.array(difficult, np.bool_),
        area=(corners[:, 2:] - corners[:, :2]).clip(0).prod(1),
    )
    return Part(where, tuple(names), annotated)
