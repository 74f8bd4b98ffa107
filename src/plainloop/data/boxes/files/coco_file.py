"""What a COCO annotation file says (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainloop.data.boxes.annotations import Annotated, Outlines, offsets
from plainloop.data.boxes.files.clean import Part
from plainloop.data.boxes.files.json_lists import FORM, LISTS, entries_of, short
from plainloop.data.loading.layout import quoted
from plainloop.errors import BadData, counted


def read_coco(path: Path, where: str, *, with_masks: bool) -> Part:
    """`where` is the file's name for messages. Labels are numbers into the part's own class names.

    Raises BadData for what is no annotation file, and for entries that say nothing clear.
    """
    images, categories, objects = Images(where), Categories(where), Objects(where, with_masks)
    takers = {"images": images.take, "categories": categories.take, "annotations": objects.take}
    seen = set()
    for key, entry in entries_of(path, where, with_masks=with_masks):
        seen.add(key)
        if entry is not None:
            if not isinstance(entry, dict):
                raise BadData(f"{where}: {key} has {short(entry)} where an object in braces is expected", hint=FORM)
            takers[key](entry)
    if missing := [key for key in LISTS if key not in seen]:
        raise BadData(
            f"{where} has no list called {' and none called '.join(missing)}",
            hint=f"{FORM}; of COCO's test images only the images are published",
        )
    return objects.part(images, categories)


class Images:
    """The list `images`: which number in the list an id has, and what is known of each."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.number_of: dict[Any, int] = {}

    def take(self, entry: dict[str, Any]) -> None:
        name, key = entry.get("file_name"), entry.get("id")
        if not isinstance(name, str) or not name or not isinstance(key, int | str):
            raise BadData(f"{self.where}: an image needs an id and a file_name, got {short(entry)}", hint=FORM)
        if key in self.number_of:
            other = self.names[self.number_of[key]]
            raise BadData(
                f"{self.where}: the images {other} and {name} have the same id, {key}",
                hint="give each image an id of its own: it is not clear whose objects these are",
            )
        sizes = [entry.get(side) or 0 for side in ("height", "width")]
        if not all(isinstance(side, int | float) and 0 <= side < 2**31 for side in sizes):
            raise BadData(f"{self.where}: {name} has no height and width in pixels: {short(sizes)}")
        self.number_of[key] = len(self.names)
        self.names.append(name.replace("\\", "/"))
        self.sizes.append((int(sizes[0]), int(sizes[1])))


class Categories:
    """The list `categories`."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.name_of: dict[Any, str] = {}
        self.parents: set[str] = set()  # supercategories of others

    def take(self, entry: dict[str, Any]) -> None:
        name, key = entry.get("name"), entry.get("id")
        if not isinstance(name, str) or not name.strip() or not isinstance(key, int | str):
            raise BadData(f"{self.where}: a category needs an id and a name, got {short(entry)}", hint=FORM)
        if key in self.name_of or name in self.name_of.values():
            raise BadData(
                f"{self.where}: two categories have the id {key} or the name {name}",
                hint="each category has an id and a name of its own",
            )
        self.name_of[key] = name
        if entry.get("supercategory") not in (None, name):
            self.parents.add(entry["supercategory"])


class Objects:
    """The list `annotations`, as columns that grow."""

    def __init__(self, where: str, with_masks: bool) -> None:
        self.where, self.shapes = where, Shapes() if with_masks else None
        self.ids: list[Any] = []
        self.image_ids: list[Any] = []
        self.category_ids: list[Any] = []
        self.boxes, self.areas = array("d"), array("d")
        self.crowds = array("b")

    def take(self, entry: dict[str, Any]) -> None:
        try:
            x, y, width, height = entry["bbox"]
            area = entry.get("area")
            self.boxes.extend((x, y, width, height))
            self.areas.append(width * height if area is None else area)
            self.crowds.append(bool(entry.get("iscrowd", 0)))
            self.image_ids.append(entry["image_id"])
            self.category_ids.append(entry["category_id"])
            self.ids.append(entry.get("id"))
            if self.shapes is not None:
                self.shapes.take(entry.get("segmentation"))
        except (KeyError, TypeError, ValueError) as error:
            wrong = f"has no {error.args[0]}" if isinstance(error, KeyError) else f"cannot be read ({error})"
            about = {key: entry[key] for key in ("bbox", "image_id", "category_id", "area") if key in entry}
            raise BadData(
                f"{self.where}: annotation {short(entry.get('id'))} {wrong}: {short(about)}",
                hint="it needs image_id, category_id and bbox: [x, y, width, height] in pixels",
            ) from error

    def part(self, images: Images, categories: Categories) -> Part:
        """Raises BadData for objects of no category, for numbers that are none, and for missing outlines."""
        ids = sorted(categories.name_of, key=lambda key: (isinstance(key, str), key))
        label_of = {key: label for label, key in enumerate(ids)}
        image = np.array([images.number_of.get(key, -1) for key in self.image_ids], np.int64)
        label = np.array([label_of.get(key, -1) for key in self.category_ids], np.int64)
        if len(unknown := np.flatnonzero(label < 0)):
            wrong = sorted({str(self.category_ids[i]) for i in unknown})
            there = [f"{key} ({name})" for key, name in categories.name_of.items()]
            raise BadData(
                f"{self.where}: {counted(len(unknown), 'annotation')} with a category_id that categories does not "
                f"list: {quoted(wrong, 5)}; it lists {quoted(there, 5) or 'none'}",
                hint="add it to categories, with its id and name",
            )
        boxes, areas = np.array(self.boxes).reshape(-1, 4), np.array(self.areas)
        if len(wrong_rows := np.flatnonzero(~(np.isfinite(boxes).all(1) & np.isfinite(areas)))):
            row = int(wrong_rows[0])
            raise BadData(
                f"{self.where}: {counted(len(wrong_rows), 'annotation')} with numbers that are none; the first, id "
                f"{self.ids[row]}, has bbox {boxes[row].tolist()} and area {areas[row]}",
                hint="mend or remove it",
            )
        notes = self.notes(image)
        order = np.argsort(image, kind="stable")[int((image < 0).sum()) :]
        boxes[:, 2:] += boxes[:, :2]
        annotated = Annotated(
            images=np.array([name.encode(errors="surrogateescape") for name in images.names], np.bytes_),
            sizes=np.array(images.sizes, np.int32).reshape(-1, 2),
            first=offsets(np.bincount(image[order], minlength=len(images.names))),
            boxes=boxes[order].astype(np.float32),
            label=label[order],
            crowd=np.array(self.crowds, np.bool_)[order],
            difficult=np.zeros(len(order), np.bool_),
            area=areas[order].astype(np.float32),
            outlines=self.shapes.outlines(self.where, self.ids).rows(order) if self.shapes else None,
        )
        parents = frozenset(categories.parents)
        return Part(self.where, tuple(categories.name_of[key] for key in ids), annotated, notes, parents)

    def notes(self, image: NDArray[np.int64]) -> tuple[str, ...]:
        notes = []
        if alone := int((image < 0).sum()):
            notes.append(f"not used: {counted(alone, 'annotation')} of images that it does not list")
        if twice := len(self.ids) - len(set(map(str, self.ids))):
            notes.append(f"{counted(twice, 'annotation')} with the id of another: all are used")
        return tuple(notes)


class Shapes:
    """`segmentation` of each object: polygons, or run lengths."""

    def __init__(self) -> None:
        self.points = array("f")
        self.corners, self.polygons, self.num_bytes = array("q"), array("q"), array("q")
        self.runs, self.sizes = bytearray(), array("i")
        self.too_short = 0  # polygons

    def take(self, segmentation: Any) -> None:
        """Raises TypeError, ValueError and KeyError."""
        runs, size, polygons = b"", (0, 0), 0
        if isinstance(segmentation, dict):
            size, counts = tuple(segmentation["size"]), segmentation["counts"]
            runs = counts.encode() if isinstance(counts, str) else compressed(counts)
        else:
            if segmentation and not isinstance(segmentation[0], list):
                segmentation = [segmentation]  # some tools write one polygon without the outer list
            for polygon in segmentation or ():
                if len(polygon) % 2:
                    raise ValueError(f"a polygon has {len(polygon)} numbers, x and y in turn")
                if len(polygon) >= 6:
                    self.points.extend(polygon)
                    self.corners.append(len(polygon) // 2)
                    polygons += 1
                else:
                    self.too_short += 1
        self.polygons.append(polygons)
        self.runs += runs
        self.num_bytes.append(len(runs))
        self.sizes.extend(size)

    def outlines(self, where: str, ids: Sequence[Any]) -> Outlines:
        """Raises BadData where an object has no outline."""
        polygons, num_bytes = np.array(self.polygons, np.int64), np.array(self.num_bytes, np.int64)
        if len(without := np.flatnonzero((polygons == 0) & (num_bytes == 0))):
            told = "annotations have boxes only, no segmentation"
            if len(without) < len(ids) or self.too_short:
                told = f"{len(without):,} of {counted(len(ids), 'annotation')} have no outline of three points or more"
                told += f" (id {ids[without[0]]})"
            raise BadData(
                f"{where}: {told}",
                hint="instance masks need polygons or run lengths of every object: mend or remove these; for boxes "
                "type data.instance_masks=false and task=detection",
            )
        points = np.array(self.points, np.float32).reshape(-1, 2)
        if not np.isfinite(points).all():
            polygon = np.searchsorted(np.cumsum(self.corners), np.flatnonzero(~np.isfinite(points).all(1))[0], "right")
            wrong = ids[int(np.searchsorted(np.cumsum(polygons), polygon, "right"))]
            raise BadData(f"{where}: segmentation of id {wrong} has numbers that are none", hint="mend or remove it")
        return Outlines(
            points=points,
            first_point=offsets(np.array(self.corners, np.int64)),
            first_polygon=offsets(polygons),
            runs=np.frombuffer(bytes(self.runs), np.uint8),
            first_byte=offsets(num_bytes),
            runs_size=np.array(self.sizes, np.int32).reshape(-1, 2),
        )


def compressed(counts: Sequence[int]) -> bytes:
    """COCO's string of run lengths: differences to the one before the last, five bits in each character.

    >>> compressed([10, 5, 300, 7])
    b':5d83'
    """
    text = bytearray()
    for number, count in enumerate(counts):
        left, more = count - (counts[number - 2] if number > 2 else 0), True
        while more:
            five, left = left & 31, left >> 5
            more = left != (-1 if five & 16 else 0)
            text.append(48 + five + 32 * more)
    return bytes(text)
