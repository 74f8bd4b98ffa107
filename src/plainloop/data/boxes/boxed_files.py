"""What sources share whose boxes are in annotation files: which classes, boxes and images are used, and what is said.

This module has no `from __future__ import annotations`: the check reads these types in the signatures of subclasses.
"""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plainloop.contracts import Batch, Facts, Preprocessing, SampleTransform, Split
from plainloop.data.boxes.annotations import Annotated
from plainloop.data.boxes.example import box_batch, refuse_labels
from plainloop.data.boxes.files.clean import Part, cleaned, of_classes_in, with_sizes
from plainloop.data.boxes.sides import plan_line, refuse_sized, sides_of
from plainloop.data.cache.place import estimate_of
from plainloop.data.decoded import IMAGENET_MEAN, IMAGENET_STD, DecodedFiles
from plainloop.data.loading.layout import quoted
from plainloop.data.loading.stratify import held_out_by_name
from plainloop.data.text import lines_of
from plainloop.errors import BadData, counted

if TYPE_CHECKING:
    from plainloop.data.loading.samples import Images


@dataclass(frozen=True)
class Splits:
    """All splits, with the classes that are learned and boxes that can be trained on."""

    root: Path
    class_names: tuple[str, ...]
    splits: dict[Split, Annotated]
    notes: tuple[str, ...] = ()
    watched: dict[str, int] = field(default_factory=dict)  # files and folders: when each has changed last

    def file_names(self) -> Iterator[str]:
        """split/image of each image, a tab, and a number that changes with its objects."""
        for split, part in self.splits.items():
            for index, image in enumerate(part.images):
                yield f"{split}/{os.fsdecode(image)}\t{digest_of(part, part.objects(index))}"

    def files_hash(self) -> str:
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split, part in self.splits.items():
            digest.update(b"\n".join([split.encode(), *part.images.tolist()]) + part.first.tobytes())
            digest.update(digest_of(part, slice(None)).encode())
        return digest.hexdigest()[:16]

    def is_current(self) -> bool:
        return all(stamp_of(Path(path)) == then for path, then in self.watched.items())


def digest_of(part: Annotated, objects: slice) -> str:
    columns: list[NDArray[Any]] = [part.boxes, part.label, part.crowd, part.difficult, part.area]
    digest = hashlib.blake2b(digest_size=6)
    for column in columns:
        digest.update(column[objects].tobytes())
    if (shapes := part.outlines) is not None:
        start, stop, _ = objects.indices(len(part.label))
        polygons = slice(shapes.first_polygon[start], shapes.first_polygon[stop] + 1)
        first_point = shapes.first_point[polygons]
        digest.update(shapes.points[first_point[0] : first_point[-1]].tobytes() + first_point.tobytes())
        digest.update(shapes.runs[shapes.first_byte[start] : shapes.first_byte[stop]].tobytes())
    return digest.hexdigest()


def stamp_of(path: Path) -> int:
    """When a file has changed last; 0: it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


_last: list[tuple[tuple[Any, ...], Splits]] = []  # the newest one: the check asks for it several times


def remembered(find: Callable[[], Splits], *key: Any) -> Splits:
    """What `find` gives, once while no file changes."""
    if not (_last and _last[0][0] == key and _last[0][1].is_current()):
        _last[:] = [(key, find())]
    return _last[0][1]


def settled(
    root: Path,
    parts: Mapping[Split, Part],
    *,
    class_names: tuple[str, ...],
    leave_out_others: bool,
    val_fraction: float,
    missing: Mapping[Split, Sequence[str]],
) -> Splits:
    """All splits with these classes, clean boxes, and a val.

    Args:
        leave_out_others: objects of other classes are counted and not used; otherwise there must be none.
        missing: images that are not there.

    Raises BadData for what cannot be trained on.
    """
    counts = {
        split: f"{counted(len(part.annotated), 'image')}, {counted(len(part.annotated.label), 'object')}"
        for split, part in parts.items()
    }
    notes = [f"{split} from {part.where}: {counts[split]}" for split, part in parts.items()]
    splits: dict[Split, Annotated] = {}
    for split, part in parts.items():
        chosen, of_classes = of_classes_in(part, class_names, leave_out_others=leave_out_others)
        splits[split], of_boxes = cleaned(with_sizes(root, chosen))
        found = [*part.notes, *of_classes, *of_boxes]
        if gone := missing.get(split):
            found.append(f"{counted(len(gone), 'image')} not there, which training will skip: {quoted(gone, 3)}")
        if crowds := int(splits[split].crowd.sum()):
            found.append(f"{counted(crowds, 'crowd')}, found or not counts neither way")
        if empty := int((np.diff(splits[split].first) == 0).sum()):
            found.append(f"{counted(empty, 'image')} without objects, used as background")
        notes += [f"{split}: {text}" for text in found]
    if splits["train"].crowd.all():
        raise BadData(
            f"{parts['train'].where}: no object of {quoted(class_names, 5) or 'any class'} is left to learn from, in "
            f"{counted(len(splits['train']), 'image')}",
            hint="; ".join(notes[1:]) or "annotate objects in the training images",
        )
    if "val" not in splits:
        whole = splits["train"]
        held_out = np.zeros(len(whole), np.bool_)
        held_out[held_out_by_name([os.fsdecode(name) for name in whole.images], val_fraction)] = True
        if not held_out.any():
            raise BadData(f"data.root={root} has one image with annotations, and two are needed", hint="add images")
        kept, val = (whole.rows(np.flatnonzero(rows)) for rows in (~held_out, held_out))
        splits |= {"train": kept, "val": val}
        notes.append(f"val takes {val_fraction:g} of the images of train")
    elif both := set(splits["train"].images.tolist()) & set(splits["val"].images.tolist()):
        names = [os.fsdecode(name) for name in sorted(both)]
        notes.append(f"{counted(len(both), 'image')} in train and in val, which measures too well: {quoted(names, 2)}")
    if not len(splits["val"].label):
        notes.append("val has no objects: its precision cannot be measured")
    return Splits(root, class_names, splits, tuple(notes))


def require_images(missing: Mapping[Split, Sequence[str]], parts: Mapping[Split, Part]) -> None:
    """Raises BadData for annotations of images that are not there."""
    for split, names in missing.items():
        if names:
            part = parts[split]
            raise BadData(
                f"{part.where}: {len(names):,} of {counted(len(part.annotated), 'image')} not there: "
                f"{quoted(names, 3)}",
                hint="add the files or take them out of the annotations; or go on without them: data.on_bad_image=skip",
            )


@dataclass(kw_only=True, eq=False)
class BoxedFiles(DecodedFiles):
    """A subclass adds `found`.

    Args:
        image_size: pixels, of the square that the model sees; or the shorter and the longer side of a rectangle, which
            is wide or tall as the images of its batch.
        class_names: the classes to learn, in this order; objects of others are not used. Or a file in `root` with one
            name a line. None: all.
        val_fraction: the share of the images to validate on if there is no val; the same images for every seed.
        allow_changed: lets a run be resumed when images or their objects have changed; it is then no longer the same.
    """

    root: str
    image_size: int | Sequence[int] = 416  # type: ignore[assignment]  # no other source takes two numbers
    class_names: Sequence[str] | str | None = None
    val_fraction: float = 0.2
    allow_changed: bool = False

    changes_no_result: ClassVar = (*DecodedFiles.changes_no_result, "allow_changed")
    split_keys: ClassVar[tuple[str, ...]] = ("annotations", "images")
    how_to_get_a_test_split: ClassVar = "name its annotations: data.test.annotations=<file>, and those of train and val"

    def __post_init__(self) -> None:
        self.sides = sides_of(self.image_size)
        super().__post_init__()
        refuse_labels(self.sampler, None)
        if self.class_names is not None and not isinstance(self.class_names, str):
            names = list(self.class_names)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"data.class_names={names} must name at least one class, and each of them once")

    @property
    def shorter_side(self) -> int:
        return self.sides[0]

    @property
    def is_square(self) -> bool:
        return self.sides[0] == self.sides[1]

    def refuse_transform(self, name: str, transform: SampleTransform) -> None:
        """`name` is the entry of augment. Raises BadConfig."""
        if not self.is_square:
            refuse_sized(name, transform, self.sides)

    @abstractmethod
    def found(self) -> Splits:
        """All that the annotations say. Raises BadData."""

    @property
    def base(self) -> Path:
        """The folder. Raises BadData."""
        base = Path(self.root).expanduser()
        if not base.is_dir():
            if base.exists():
                raise BadData(f"data.root={self.root} is a file", hint=f"type data.root={base.parent}")
            raise BadData(
                f"data.root={self.root} does not exist", hint="set data.root=<folder with images and annotations>"
            )
        return base

    def names(self) -> tuple[str, ...] | None:
        """The classes that are chosen. Raises BadData."""
        if isinstance(self.class_names, str):
            return names_in(self.base / self.class_names, f"data.class_names={self.class_names}")
        return None if self.class_names is None else tuple(map(str, self.class_names))

    def known(self) -> Facts:
        mean, std = self.statistics(IMAGENET_MEAN, IMAGENET_STD)
        found = self.found()
        self.require_room_for_cache(self.estimate)
        # No class_counts: they are of images with one class each, for sampling and class weights.
        return Facts(
            *(len(found.splits["train"]), len(found.splits["val"]), found.class_names),
            *((3, *self.sides), mean, std),
            files_hash=found.files_hash(),
        )

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return box_batch(facts, batch_size)

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        from plainloop.data.boxes.letterbox import letterboxed

        source = cls(**arguments)
        kept = None if source.cache == "none" else source.cached_side
        prepare = partial(letterboxed, sides=source.sides, shorter_side=kept)
        return Preprocessing(prepare, one_size=source.is_square, letterboxed=True)

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        source = cls(**arguments)
        found, lines = source.found(), super().plan_lines(**arguments)
        if not source.is_square:
            lines.append(plan_line(source.sides, found.splits["train"].sizes))
        return [*found.notes, *lines, *source.cache_lines(source.estimate)]

    @classmethod
    def file_names(cls, **arguments: Any) -> Iterator[str]:
        return cls(**arguments).found().file_names()

    def estimate(self) -> int:
        found = self.found()
        parts = [part for split, part in found.splits.items() if split != "test"]
        files = ((found.root / os.fsdecode(image) for image in part.images) for part in parts)
        return estimate_of((str(found.root), found.files_hash()), files, self.cached_side)

    def all_images(self) -> "dict[Split, Images]":
        from plainloop.data.boxes.samples import BoxedImages

        found = self.found()
        return {split: BoxedImages.of(found.root, part, self.sides) for split, part in found.splits.items()}


def names_in(file: Path, typed: str = "") -> tuple[str, ...]:
    """One class name a line; `typed` is the key and value that name the file. Raises BadData."""
    if typed and not file.is_file():
        raise BadData(f"{typed}: there is no file {file}", hint="it has one name a line; or type the names: [cat,dog]")
    names = tuple(filter(None, lines_of(file)))
    if not names or len(set(names)) < len(names):
        raise BadData(
            f"{file} must name at least one class, and each of them once; it has {quoted(names, 5) or 'none'}"
        )
    return names
