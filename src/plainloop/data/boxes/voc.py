"""Photographs with boxes from XML files in Pascal VOC's form.

This module has no `from __future__ import annotations`: the check reads these types in the signature.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from plainloop.contracts import Split
from plainloop.data.boxes.boxed_files import BoxedFiles, Splits, names_in, remembered, require_images, settled, stamp_of
from plainloop.data.boxes.files.clean import Part
from plainloop.data.boxes.files.voc_files import Pairs, find_pairs, read_split
from plainloop.data.loading.layout import quoted
from plainloop.errors import BadData, counted

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LABELS = "labels.txt"


@dataclass(kw_only=True, eq=False)
class VocBoxes(BoxedFiles):
    """`root` is laid out as Pascal VOC, PaddleX or LabelImg do; see files.voc_files.LAYOUTS.

    Otherwise `train.annotations` is a folder of XML files in `root`, `train.images` one of images, and so for val and
    test. `train.list` and so on name a list of ImageSets/Main, or a file with PaddleX's lines. Pascal VOC's usual
    protocol trains on trainval of 2007 and 2012 and measures on test of 2007.

    Its first pixel is 1 and xmax is the last pixel inside (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf,
    section 4), so a box here is x0 = xmin - 1, y0 = ymin - 1, x1 = xmax, y1 = ymax. Classes that are not chosen by
    `class_names` are Pascal VOC's twenty in its own folders, else the lines of labels.txt, else all names, sorted.

    Raises BadData for files that cannot be trained on; batches raise it for a damaged image and one of another size
    than its annotations say.
    """

    instance_masks: bool = False  # asked for where a task measures masks

    split_keys: ClassVar = ("annotations", "images", "list")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.instance_masks:
            raise BadData(
                "data.instance_masks: Pascal VOC's XML has boxes, and no outlines of objects to make masks of",
                hint="task=detection for boxes, or data=coco where files in COCO's form have outlines",
            )

    def found(self) -> Splits:
        pairs, key = find_pairs(self.base, self.of_split), (self.root, self.val_fraction, self.on_bad_image)
        return remembered(lambda: self._find(pairs), "voc", self.names(), pairs, *key)

    def _find(self, pairs: Pairs) -> Splits:
        base, chosen = self.base, self.names()
        missing: dict[Split, list[str]] = {}
        watched = {str(base / LABELS): stamp_of(base / LABELS)}
        for split, of_split in pairs.of_split.items():
            stamps = {annotation: stamp_of(base / annotation) for _, annotation in of_split}
            if gone := [name for name, stamp in stamps.items() if not stamp]:
                raise BadData(
                    f"{pairs.where[split]}: {len(gone):,} of {counted(len(of_split), 'XML file')} not there: "
                    f"{quoted(gone, 3)}",
                    hint="add them, or take these images out of the list",
                )
            watched |= {str(base / name): stamp for name, stamp in stamps.items()}
            missing[split] = [image for image, _ in of_split if not (base / image).is_file()]
        parts = {split: read_split(base, of_split, pairs.where[split]) for split, of_split in pairs.of_split.items()}
        if self.on_bad_image == "raise":
            require_images(missing, parts)
        found = settled(
            base,
            parts,
            class_names=chosen or self.classes_of(parts, is_voc=pairs.is_voc),
            leave_out_others=chosen is not None,
            val_fraction=self.val_fraction,
            missing=missing,
        )
        return replace(found, watched=watched, notes=(*found.notes, *pairs.notes))

    def classes_of(self, parts: Mapping[Split, Part], *, is_voc: bool) -> tuple[str, ...]:
        """Raises BadData for a name that labels.txt does not have."""
        names = sorted({name for part in parts.values() for name in part.class_names})
        if (file := self.base / LABELS).is_file():
            listed = names_in(file)
            if others := [name for name in names if name not in listed]:
                raise BadData(
                    f"{LABELS} has no {quoted(others, 5)}, and there are objects of that name; it has "
                    f"{quoted(listed, 5)}",
                    hint=f"add a line to {LABELS}, or rename the objects",
                )
            return listed
        return VOC_CLASSES if is_voc and set(names) <= set(VOC_CLASSES) else tuple(names)
