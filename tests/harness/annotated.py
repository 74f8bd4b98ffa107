"""Small photographs with annotation files, as people's tools write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.photos import photograph

Objects = Sequence[tuple[str, tuple[float, float, float, float]]]  # class and x y width height, the first pixel is 0

SIZE = (80, 60)  # width and height of every photograph
# One image without objects, one with two.
SCENES: dict[str, Objects] = {
    "1.jpg": [("cat", (10, 5, 30, 40))],
    "2.jpg": [("dog", (0, 0, 80, 60)), ("cat", (40.5, 20.25, 8, 4))],
    "3.jpg": [],
    "4.jpg": [("dog", (70, 50, 10, 10))],
}


def write_images(folder: Path, names: Sequence[str] = tuple(SCENES), size: tuple[int, int] = SIZE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        photograph(size).save(folder / name)
    return folder


def as_coco(scenes: Mapping[str, Objects] = SCENES, classes: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The object of a COCO file; categories have the numbers 3 and 7."""
    classes = classes or {3: "cat", 7: "dog"}
    number_of = {name: number for number, name in classes.items()}
    objects = [(image, *one) for image, of_image in enumerate(scenes.values()) for one in of_image]
    width, height = SIZE
    return {
        "info": {"description": "made for a test", "contributor": [1, {"a": None}]},
        "images": [
            {"id": number, "file_name": name, "width": width, "height": height} for number, name in enumerate(scenes)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": number_of[name],
                "bbox": [x, y, w, h],
                "area": w * h / 2,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h]],
            }
            for number, (image, name, (x, y, w, h)) in enumerate(objects, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in classes.items()],
    }


def write_coco(file: Path, content: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(as_coco() if content is None else content))
    return file


def as_xml(objects: Objects, size: tuple[int, int] = SIZE, inside: str = "") -> str:
    """`inside` stands in each object."""
    boxes = "".join(
        f"<object><name>{name}</name><pose>Left</pose>{inside}<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for name, (x, y, w, h) in objects
    )
    width, height = size
    return (
        f"<annotation><folder>x</folder><filename>wrong.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size><segmented>0</segmented>{boxes}</annotation>"
    )


def write_xml(folder: Path, scenes: Mapping[str, Objects] = SCENES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, objects in scenes.items():
        (folder / name).with_suffix(".xml").write_text(as_xml(objects))
    return folder
