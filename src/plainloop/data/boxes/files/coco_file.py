"""What a COCO annotation file says (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainloop.data.boxes.annotations import Annotated, offsets
from plainloop.data.boxes.files.clean import Part
from plainloop.data.boxes.files.json_lists import FORM, LISTS, entries_of, short
from plainloop.data.boxes.files.other_forms import are_corners, are_fractions
from plainloop.data.boxes.files.shapes import Shapes, with_pixels
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
        if entry != ():
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
        if why := no_file_name(name):
            raise BadData(f"{self.where}: the file_name of image {short(key)} {why}: {short(name)}", hint="rename it")
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
        for other, its_name in self.name_of.items():
            if key == other or name == its_name:
                same = f"id, {short(key)}" if key == other else f"name, {name}"
                raise BadData(
                    f"{self.where}: two categories have the same {same}: {short(other)} ({its_name}) and "
                    f"{short(key)} ({name})",
                    hint="each category has an id and a name of its own",
                )
        self.name_of[key] = name
        parent = entry.get("supercategory")
        if not isinstance(parent, str | int | None):
            raise BadData(f"{self.where}: the supercategory of {name} is {short(parent)}", hint="it is a name, or none")
        if parent not in (None, name):
            self.parents.add(str(parent))


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
            if (crowd := entry.get("iscrowd")) not in (0, 1, None):
                raise ValueError
            self.crowds.append(bool(crowd))
            for name, numbers in (("image_id", self.image_ids), ("category_id", self.category_ids)):
                if not isinstance(entry[name], int | float | str):
                    raise TypeError
                numbers.append(entry[name])
            self.ids.append(entry.get("id"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            wrong = f"has no {error.args[0]}" if isinstance(error, KeyError) else "cannot be read"
            keys = ("bbox", "image_id", "category_id", "area", "iscrowd")
            about = ", ".join(f"{key} {short(entry[key])}" for key in keys if key in entry)
            raise BadData(
                f"{self.where}: annotation {short(entry.get('id'))} {wrong}: {about}",
                hint="it needs image_id, category_id and bbox: [x, y, width, height] in pixels; area is a number, and "
                "iscrowd 0 or 1",
            ) from error
        if self.shapes is not None:
            shape = entry.get("segmentation")
            try:
                self.shapes.take(shape)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise BadData(
                    f"{self.where}: segmentation of annotation {short(entry.get('id'))} cannot be read: {short(shape)}",
                    hint="it is a list of polygons, [[x, y, x, y, x, y, ...], ...], or run lengths: "
                    '{"size": [height, width], "counts": [...]}',
                ) from error

    def part(self, images: Images, categories: Categories) -> Part:
        """Raises BadData for objects of no category, boxes in another form than COCO's, and missing outlines."""
        ids = sorted(categories.name_of, key=lambda key: (isinstance(key, str), key))
        label_of = {key: label for label, key in enumerate(ids)}
        image = np.array([images.number_of.get(key, -1) for key in self.image_ids], np.int64)
        label = np.array([label_of.get(key, -1) for key in self.category_ids], np.int64)
        if len(unknown := np.flatnonzero(label < 0)):
            wrong = sorted({short(self.category_ids[i]) for i in unknown})
            there = [f"{short(key)} ({name})" for key, name in categories.name_of.items()]
            raise BadData(
                f"{self.where}: {counted(len(unknown), 'annotation')} with a category_id that categories does not "
                f"list: {quoted(wrong, 5)}; it lists {quoted(there, 5) or 'none'}",
                hint="add it to categories, with its id and name; a number in quotes is another id than the number",
            )
        boxes, areas = np.array(self.boxes).reshape(-1, 4), np.array(self.areas)
        if len(wrong_rows := np.flatnonzero(~(np.isfinite(boxes).all(1) & np.isfinite(areas)))):
            row = int(wrong_rows[0])
            raise BadData(
                f"{self.where}: {counted(len(wrong_rows), 'annotation')} with numbers that are none; the first, id "
                f"{self.ids[row]}, has bbox {boxes[row].tolist()} and area {areas[row]}",
                hint="mend or remove it",
            )
        self.require_form(boxes, image, images)
        notes = self.notes(image)
        order = np.argsort(image, kind="stable")[int((image < 0).sum()) :]
        boxes[:, 2:] += boxes[:, :2]
        boxes = np.clip(boxes, -1e30, 1e30)  # float32 has no larger ones
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
        if self.shapes:
            annotated, more = with_pixels(annotated, [self.ids[row] for row in order], self.where)
            notes += more
        return Part(self.where, tuple(categories.name_of[key] for key in ids), annotated, notes, parents)

    def require_form(self, boxes: NDArray[np.float64], image: NDArray[np.int64], images: Images) -> None:
        """Raises BadData for boxes (M, 4) as the file has them that are fractions of the image, or two corners."""
        rows = np.flatnonzero(image >= 0)
        sizes = np.array(images.sizes, np.int32).reshape(-1, 2)[image[rows]]
        if are_fractions(boxes[rows]):
            what, example = "fractions of the image", int((boxes[rows] % 1 != 0).sum(1).argmax())
            instead = (
                "[x * W, y * H, width * W, height * H] for an image of W x H pixels, and so in segmentation and area"
            )
        elif are_corners(boxes[rows], sizes):
            over = (boxes[rows, :2] + boxes[rows, 2:] > sizes[:, ::-1] + 1).any(1) & (sizes > 0).all(1)
            what, example = "x0 y0 x1 y1", int(over.argmax())
            instead = "[x0, y0, x1 - x0, y1 - y0]"
        else:
            return
        row, (height, width) = int(rows[example]), sizes[example].tolist()
        box = short(boxes[row].round(4).tolist())
        size = f" ({width} x {height} pixels)" if width and height else ""
        raise BadData(
            f"{self.where}: its boxes are {what}, and COCO's are x y width height in pixels: annotation "
            f"{short(self.ids[row])} of {images.names[image[row]]}{size} has bbox {box}",
            hint=f"export it again in COCO's form, or write {instead}",
        )

    def notes(self, image: NDArray[np.int64]) -> tuple[str, ...]:
        notes = []
        if alone := int((image < 0).sum()):
            first = short(self.image_ids[int(np.flatnonzero(image < 0)[0])])
            notes.append(
                f"not used: {counted(alone, 'annotation')} of images that it does not list, such as image_id {first}"
            )
        if below := int((np.array(self.areas) < 0).sum()):
            notes.append(f"{counted(below, 'annotation')} with an area below 0: the measures by size leave them out")
        if twice := len(self.ids) - len(set(map(str, self.ids))):
            notes.append(f"{counted(twice, 'annotation')} with the id of another: all are used")
        return tuple(notes)


def no_file_name(name: str) -> str:
    """Why no file can have this path; "" if one can."""
    try:
        content = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return "has half a character"
    if b"\0" in content:
        return "has a character that no file has"
    return "is too long" if len(content) > 4000 or max(map(len, content.split(b"/"))) > 255 else ""
