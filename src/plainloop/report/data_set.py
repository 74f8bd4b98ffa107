"""What a survey of a data set found, and as text of 80 columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from textwrap import wrap
from typing import Any

import numpy as np

from plainloop.contracts import IGNORE
from plainloop.data.boxes.sides import typed
from plainloop.errors import counted, printable
from plainloop.report.data_objects import object_lines, resized_by

WIDTH = 80
SHOWN = 10  # files of each kind in the text
CLASSES_SHOWN = 20  # in the text; HTML has all


@dataclass(frozen=True)
class Found:
    """A survey; `looked` has one entry for each image (plainloop.data.survey.look.Looked)."""

    title: str
    class_names: Sequence[str]
    looked: Sequence[Any]
    image_size: Any  # that the model sees: of a square, or its shorter and longer side; None: the images' own size
    changed: Sequence[str] = ()  # what differs from an earlier survey
    said: Sequence[str] = ()  # what the source says of its files

    @property
    def readable(self) -> list[Any]:
        return [one for one in self.looked if not one.problem]

    @property
    def bad(self) -> list[Any]:
        return [one for one in self.looked if one.problem]

    @property
    def masked(self) -> list[Any]:
        return [one for one in self.readable if one.pixels is not None]

    @property
    def boxed(self) -> list[Any]:
        return [one for one in self.readable if one.objects is not None]

    def counts(self) -> dict[int, Counter[str]]:
        """By split, images of each class, or with a pixel of it, or objects; of class -1 where nothing is known."""
        known = any(one.label >= 0 for one in self.looked) or self.masked or self.boxed
        labels = range(len(self.class_names)) if known else (-1,)
        counts: dict[int, Counter[str]] = {label: Counter() for label in labels}
        for one in self.boxed:
            for label in one.objects.label.tolist():
                counts[label][one.split] += 1
        if self.boxed:
            return counts
        for one in self.masked or self.looked:
            for label in (one.label,) if one.pixels is None else one.pixels.keys() - {IGNORE}:
                counts.setdefault(label, Counter())[one.split] += 1
        return counts

    def pixel_shares(self, split: str) -> dict[int, float]:
        """Of the labelled pixels of a split, by class; {} without masks."""
        pixels: Counter[int] = Counter()
        for one in self.masked:
            pixels.update(one.pixels if one.split == split else {})
        labelled = sum(count for label, count in pixels.items() if label != IGNORE)
        return {label: pixels[label] / labelled for label in range(len(self.class_names))} if labelled else {}

    def splits(self) -> list[str]:
        return list(dict.fromkeys(one.split for one in self.looked))

    def duplicates(self) -> list[list[Any]]:
        """Groups of equal images: first those in several splits, then those with several labels."""
        groups: dict[str, list[Any]] = {}
        for one in self.readable:
            groups.setdefault(one.digest, []).append(one)
        several = [group for group in groups.values() if len(group) > 1]
        return sorted(several, key=lambda group: (not leaks(group), not contradicts(group)))

    def notes(self) -> dict[str, list[Any]]:
        """What is odd -> its images, the most frequent first. Sizes behind a colon are left out of the kind."""
        kinds: dict[str, list[Any]] = {}
        for one in self.readable:
            for note in one.notes:
                kinds.setdefault(note.split(": ")[0] if note.startswith(("tiny", "long")) else note, []).append(one)
        return dict(sorted(kinds.items(), key=lambda pair: -len(pair[1])))

    def statistics(self) -> tuple[list[float], list[float]]:
        """mean and std of each channel over the readable training images, of which each counts the same."""
        train = [one for one in self.readable if one.split == "train"] or self.readable
        mean, square = (np.mean([getattr(one, name) for one in train], axis=0) for name in ("mean", "square"))
        return mean.tolist(), [math.sqrt(max(s - m * m, 0.0)) for m, s in zip(mean, square, strict=True)]


def leaks(group: Sequence[Any]) -> bool:
    return len({one.split for one in group}) > 1


def contradicts(group: Sequence[Any]) -> bool:
    return len({one.label for one in group}) > 1


def as_text(found: Found) -> Iterator[str]:
    """Lines of at most 80 columns."""
    for line in _lines(found):
        line = printable(line)
        whole = len(line) <= WIDTH or "model.anchors=" in line  # which is to be copied
        yield line if whole else line[: WIDTH - 3] + "..."


def _lines(found: Found) -> Iterator[str]:
    splits, counts = found.splits(), found.counts()
    yield found.title
    total = Counter(one.split for one in found.looked)
    yield f"  images      {', '.join(f'{total[split]:,} {split}' for split in splits)}"
    if found.readable:
        yield from _sizes(found)
        mean, std = found.statistics()
        yield "  statistics  of the training images, each of which counts the same:"
        yield f"              data.mean={_numbers(mean)} data.std={_numbers(std)}"
    yield from _classes(found, counts, splits)
    if found.boxed:
        yield from object_lines(found.boxed, splits, found.image_size)
        for number, text in enumerate(found.said):
            start = "" if number else "  files"
            yield from wrap(printable(text), WIDTH, initial_indent=f"{start:14}", subsequent_indent=" " * 16)
    yield from _without_labels(found, counts)
    if found.bad:
        yield f"  unreadable  {counted(len(found.bad), 'image')}"
        for one in found.bad[:SHOWN]:
            text = printable(f"{one.place}: {one.problem}")
            yield from wrap(text, WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 18)
        if found.bad[SHOWN:]:
            yield f"                and {len(found.bad) - SHOWN:,} more"
    for kind, odd in found.notes().items():
        yield f"  odd         {len(odd):,} x {kind}"
        yield from (f"                {one.place}" for one in odd[:3])
        if odd[3:]:
            yield f"                and {len(odd) - 3:,} more"
    groups = found.duplicates()
    if groups:
        between, wrong = sum(map(leaks, groups)), sum(map(contradicts, groups))
        yield f"  duplicates  {counted(len(groups), 'image')} in several files;"
        yield f"              {between:,} of them in several splits, {wrong:,} with several labels"
        for group in groups[:SHOWN]:
            yield f"                {' = '.join(one.place for one in group[:3])}"
        if groups[SHOWN:]:
            yield f"                and {len(groups) - SHOWN:,} more"
    if found.changed:
        yield f"  changed     {counted(len(found.changed), 'file')} since the earlier survey"
        yield from (f"                {text}" for text in found.changed[:SHOWN])


def _sizes(found: Found) -> Iterator[str]:
    shapes = Counter((one.width, one.height) for one in found.readable)
    if len(shapes) == 1:
        (width, height), _ = next(iter(shapes.items()))
        yield f"  sizes       all {width} x {height} pixels"
        return
    sides = [(min(shape), max(shape)) for one in found.readable for shape in [(one.width, one.height)]]
    low, high = [short for short, _ in sides], [long for _, long in sides]
    (width, height), most = shapes.most_common(1)[0]
    yield f"  sizes       shorter side {min(low)} to {max(low)}, in the middle {median(low):.0f} pixels"
    yield f"              longer side {min(high)} to {max(high)}, in the middle {median(high):.0f} pixels"
    yield f"              most often {width} x {height}: {most / len(sides):.0%} of {len(shapes):,} sizes"
    if found.image_size:
        if found.boxed:
            below = sum(resized_by(one, found.image_size) > 1 for one in found.readable)
        else:
            below = sum(side < found.image_size for side in low)
        how = "will be padded" if found.masked else "will be enlarged"
        if below:
            yield f"              {below:,} are smaller than data.image_size={typed(found.image_size)} and {how}"


def _classes(found: Found, counts: Mapping[int, Counter[str]], splits: Sequence[str]) -> Iterator[str]:
    if set(counts) == {-1}:
        return
    first, *_ = splits
    order = sorted(counts, key=lambda label: -counts[label][first])
    sizes = [counts[label][first] for label in order]
    ratio = f", {sizes[0] / sizes[-1]:.3g} times the smallest" if sizes[-1] else ""
    largest = counted(sizes[0], f"{first} {'object' if found.boxed else 'image'}")
    yield f"  classes     {len(order):,}; the largest has {largest}{ratio}"
    shown = order if len(order) <= CLASSES_SHOWN else order[: CLASSES_SHOWN // 2] + order[-CLASSES_SHOWN // 2 :]
    name_width = min(34, max(len(name_of(found, label)) for label in shown))
    shares = found.pixel_shares(first)
    more = "    of pixels" if shares else ""
    yield " " * 14 + f"{'':<{name_width}}" + "".join(f"{split:>10}" for split in splits) + more
    for number, label in enumerate(shown):
        if len(shown) < len(order) and number == CLASSES_SHOWN // 2:
            yield f"              ... {len(order) - len(shown):,} classes between"
        name = name_of(found, label)
        name = name if len(name) <= name_width else name[: name_width - 3] + "..."
        share = f"{shares.get(label, 0.0):>13.2%}" if shares else ""
        yield f"{'':14}{name:<{name_width}}" + "".join(f"{counts[label][split]:>10,}" for split in splits) + share


def _without_labels(found: Found, counts: Mapping[int, Counter[str]]) -> Iterator[str]:
    """Of masks and boxes: classes that no image of a split has, and images that have none of the classes."""
    if not (found.masked or found.boxed):
        return
    for split in found.splits():
        if names := [name_of(found, label) for label, count in counts.items() if not count[split]]:
            yield from wrap(f"  missing     in {split}: {', '.join(names)}", WIDTH, subsequent_indent=" " * 14)
    empty = [one for one in found.masked if not one.pixels.keys() - {IGNORE}]
    if empty:
        yield f"  unlabelled  {len(empty):,} images have no pixel of any class"
        yield from (f"                {one.place}" for one in empty[:3])
        if empty[3:]:
            yield f"                and {len(empty) - 3:,} more"


def name_of(found: Found, label: int) -> str:
    return printable(found.class_names[label]) if 0 <= label < len(found.class_names) else f"label {label}"


def _numbers(values: Sequence[float]) -> str:
    """As the command line takes them.

    >>> _numbers([0.5, 0.25])
    '[0.5000,0.2500]'
    """
    return f"[{','.join(f'{value:.4f}' for value in values)}]"
