"""Which images and XML files a data set in Pascal VOC's form has, and what one such file says."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from plainloop.contracts import Split
from plainloop.data.boxes.annotations import Annotated, offsets
from plainloop.data.boxes.files.clean import Part
from plainloop.data.loading import layout
from plainloop.data.loading.layout import quoted
from plainloop.data.masks.pairs import IMAGES, SPLITS
from plainloop.errors import BadData, counted

Pair = tuple[str, str]  # image and XML file, from data.root
Object = tuple[str, tuple[float, ...], bool]  # name, x0 y0 x1 y1, difficult
FOLDERS = (*IMAGES, "annotations", "Annotations", "annotation", "labels", "label", "xml", "xmls")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
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
    lists = {split: base / (of_split[split]["list"] or f"{split}_list.txt") for split in SPLITS}
    years = [base / name for name in ("", *layout.subfolders(base)) if (base / name / "ImageSets" / "Main").is_dir()]
    years = years or sorted(path.parent.parent for path in base.glob("VOCdevkit/*/ImageSets/Main"))
    if any(own["annotations"] for own in of_split.values()):
        return named_folders(base, of_split)
    if lists["train"].is_file():
        return listed_pairs(base, {split: path for split, path in lists.items() if path.is_file()})
    if years:
        return voc_pairs(base, years, {split: own["list"] or split for split, own in of_split.items()})
    images, annotations = (found_files(base, base, is_wanted) for is_wanted in (layout.is_image, is_xml))
    return by_names(base, images, annotations)


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
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            found = re.fullmatch(r"\s*(.+?\.\w+)\s+(.+\.xml)\s*", line.replace("\\", "/"), re.IGNORECASE)
            if found:
                pairs[split].append((os.path.normpath(found[1]), os.path.normpath(found[2])))
            elif line.strip():
                raise BadData(
                    f"{path}, line {number}: expected an image and its XML file, got {line.strip()!r}",
                    hint="write such a line: JPEGImages/1.jpg Annotations/1.xml",
                )
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
            lines = [re.sub(r"\s+-?[01]$", "", line.strip()) for line in file.read_text().splitlines()]
            found = pairs_of_year(base, year, [line for line in lines if line])
            if split == "test" and not any((base / annotation).is_file() for _, annotation in found):
                notes.append(f"not used: {file.relative_to(base)}, whose images have no annotations")
            else:
                pairs.setdefault(split, []).extend(found)
    if "train" not in pairs:
        there = sorted({path.stem for year in years for path in (year / "ImageSets" / "Main").glob("*.txt")})
        plain = [name for name in there if "_" not in name] or there
        raise BadData(
            f"{base} has no list {names['train']}.txt in ImageSets/Main; it has {quoted(plain, 6) or 'no lists'}",
            hint="choose lists: data.train.list=trainval data.val.list=test",
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


def read_xml(path: Path, where: str) -> tuple[tuple[int, int], list[Object]]:
    """Height and width, 0 if not said; and of each object its name, x0 y0 x1 y1, and whether it is difficult."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        line, column = error.position
        raise BadData(
            f"{where} is no whole XML file: {str(error).partition(':')[0]} in line {line}, column {column + 1}",
            hint="it may be half copied: copy or export it again",
        ) from error
    except OSError as error:
        raise BadData(f"{where} cannot be read ({error.strerror})", hint="copy it again, or take it out") from error
    if root.tag != "annotation":
        raise BadData(
            f"{where} begins with <{root.tag}>, and Pascal VOC's files begin with <annotation>",
            hint="export the annotations as Pascal VOC, or move this file out of the folder",
        )
    size = (int(number(root, "size/height", where, 0)), int(number(root, "size/width", where, 0)))
    objects: list[Object] = []
    for count, entry in enumerate(root.iter("object"), 1):
        name, place = (entry.findtext("name") or "").strip(), f"{where}, object {count}"
        if not name:
            raise BadData(f"{place} has no <name>", hint="write the name of its class into it")
        x0, y0, x1, y1 = (number(entry, f"bndbox/{corner}", f"{place} ({name})") for corner in CORNERS)
        objects.append((name, (x0 - 1, y0 - 1, x1, y1), number(entry, "difficult", place, 0) != 0))
    return size, objects


def number(entry: ElementTree.Element, tag: str, where: str, missing: float | None = None) -> float:
    text = entry.findtext(tag)
    if text is None or not text.strip():
        if missing is not None:
            return missing
        raise BadData(f"{where} has no <{tag.rpartition('/')[2]}>", hint=f"a box has {', '.join(CORNERS)} in <bndbox>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadData(
            f"{where}: <{tag.rpartition('/')[2]}> is {text.strip()!r}, and a number is expected",
            hint="mend this object, or take it out",
        )
    return value
