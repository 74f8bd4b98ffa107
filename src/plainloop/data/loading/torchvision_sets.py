"""What torchvision's sets take and hold: their arguments, labels without decoding, images read as other files are."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plainloop.data.cache.build import Content
from plainloop.data.loading.decode import DAMAGED, at_most, decode, to_rgb
from plainloop.data.loading.samples import Images
from plainloop.errors import BadData

_LABELS = ("targets", "labels", "_labels", "y")  # attributes of its classes that hold one label for each image
_PAIRS = ("samples", "_samples")  # ... that hold (image or path, label)
_OURS = {"self", "root", "download", "loader", "transform", "target_transform", "transforms", "args", "kwargs", "train"}
_AGAIN = "delete the set's folder, and let it be downloaded with data.download=true"
_NAMES = ("classes", "categories", "all_categories")


@dataclass(frozen=True)
class Labelled:
    """One split of a set, opened."""

    dataset: Any
    spelled: str  # the arguments that give the split
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def class_of(name: str) -> Any:
    """Raises BadData where torchvision has no such set."""
    from torchvision import datasets

    if name not in datasets.__all__:
        near = difflib.get_close_matches(name.lower(), [known.lower() for known in datasets.__all__], n=1, cutoff=0.5)
        meant = [known for known in datasets.__all__ if known.lower() in near]
        raise BadData(
            f"data.name={name}: torchvision.datasets has no {name}",
            hint=f"data.name={meant[0]}" if meant else "data.name=<a class of torchvision.datasets, as Flowers102>",
        )
    return getattr(datasets, name)


@functools.cache
def parameters_of(name: str) -> frozenset[str]:
    """What its class takes, with what it passes on to the class that it extends."""
    found: set[str] = set()
    for kind in class_of(name).__mro__:
        parameters = inspect.signature(kind.__init__).parameters.values()
        found |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return frozenset(found)


@functools.cache
def splits_of(name: str) -> tuple[str, tuple[str, ...]]:
    """The argument that chooses a split, and its values: ("split", ("train", "val")), or ("train", ("train", "test")).

    torchvision names the values in the error for a wrong one, before it looks for files.
    """
    taken = parameters_of(name)
    if "split" in taken:
        try:
            class_of(name)(os.devnull, split="?")
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            names = tuple(re.findall(r"'([\w+-]+)'", str(error).partition("Valid values are")[2]))
        if any(name.startswith("train") for name in names):
            return "split", names
    return ("train", ("train", "test")) if "train" in taken else ("", ())


@functools.lru_cache(maxsize=4)  # the check, the plan and the run ask for the same splits
def read(name: str, root: Path, arguments: str, spelled: str, *, download: bool = False) -> Labelled:
    """Opens a split. `arguments` as JSON. Raises BadData."""
    dataset = _open(name, root, json.loads(arguments), download=download)
    try:
        labels = _labels_of(name, dataset)
    except DAMAGED as error:
        raise BadData(f"the labels of {name} cannot be read ({type(error).__name__}: {error})", hint=_AGAIN) from error
    return Labelled(dataset, spelled, labels, _class_names(dataset, int(labels.max()) + 1))


def _open(name: str, root: Path, arguments: dict[str, Any], *, download: bool) -> Any:
    taken, given = parameters_of(name), dict(arguments)
    if "root" in taken:
        given["root"] = str(root)
    if "download" in taken:
        given["download"] = download
    if "loader" in taken:
        given["loader"] = read_file
    try:
        return class_of(name)(**given)
    except TypeError as error:
        own = ", ".join(sorted(taken - _OURS)) or "none"
        raise BadData(
            f"{name} does not take data.arguments={json.dumps(arguments)}: {error}",
            hint=f"data.arguments.<one of its own: {own}>=..." if own != "none" else "data.arguments={}",
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).partition(". You can use")[0].replace("\n", " ")
        ways = [f"data.root=<the folder that torchvision.datasets.{name} takes>"]
        ways += ["data.download=true"] if "download" in taken and not download else []
        raise BadData(f"{name} is not read from data.root={root}: {reason}", hint=", or ".join(ways)) from error


def read_file(path: str | Path) -> Tensor:
    return decode(Path(path))


def _nothing(_: str | Path) -> None:
    """No image, where labels alone are asked for."""


def _labels_of(name: str, dataset: Any) -> NDArray[np.int64]:
    """(N,). What the set holds as labels is compared with what some of its samples give; else all samples are read."""
    number = len(dataset)
    found = [getattr(dataset, attribute) for attribute in _LABELS if hasattr(dataset, attribute)]
    found += [[pair[1] for pair in getattr(dataset, attribute)] for attribute in _PAIRS if hasattr(dataset, attribute)]
    with _not_decoding(dataset):
        some = range(0, number, max(1, number // 8))
        given = _as_labels([dataset[position][1] for position in some], len(some))
        for labels in (_as_labels(values, number) for values in found):
            if labels is not None and given is not None and np.array_equal(labels[some], given):
                return labels
        first, *others = [dataset[position][1] for position in range(number)] or [None]
    labels = _as_labels([first, *others], number)
    if labels is None:
        raise BadData(
            f"{name} has not one class number for each image; its first label is {first!r:.80}",
            hint="data.name=<a classification set>, or other data.arguments",
        )
    return labels


@contextmanager
def _not_decoding(dataset: Any) -> Iterator[None]:
    """Inside the block, a set that lets us choose what loads its images loads none."""
    if getattr(dataset, "loader", None) is not read_file:
        yield
        return
    dataset.loader = _nothing
    try:
        yield
    finally:
        dataset.loader = read_file


def _as_labels(values: Sequence[Any], number: int) -> NDArray[np.int64] | None:
    """(number,) of class numbers; None where the values are something else."""
    try:
        labels = np.asarray(values)
    except ValueError:  # of different lengths
        return None
    fits = labels.shape == (number,) and labels.dtype.kind in "iu" and number > 0 and labels.min() >= 0
    return labels.astype(np.int64) if fits else None


def _class_names(dataset: Any, at_least: int) -> tuple[str, ...]:
    """The set's own names, of several for a class the first; numbers where it has none. No two are alike."""
    found = next((getattr(dataset, attribute) for attribute in _NAMES if getattr(dataset, attribute, None)), ())
    names = [str(name[0]) if isinstance(name, tuple | list) else str(name) for name in found]
    names += map(str, range(len(names), at_least))
    counts = Counter(names)
    return tuple(f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names))


@dataclass(frozen=True, kw_only=True)
class Items(Images):
    """One split of a set; `paths` are names for messages that end with the position in the set."""

    dataset: Any
    which: str  # of all sets and splits

    @classmethod
    def of(cls, part: Labelled, name: str, *, which: str, image_size: int, crop_fraction: float) -> Items:
        prefix = part.spelled.partition("=")[2] or "image"
        paths = np.array([f"{prefix}/{position}".encode() for position in range(len(part.labels))])
        return cls(Path(name), paths, part.labels, image_size, crop_fraction, dataset=part.dataset, which=which)

    @property
    def folder_name(self) -> str:
        return self.folder.name

    def content(self, name: str, *, shorter_side: int | None, keep_bad: bool) -> Content:
        """Published sets do not change: which one it is, and which of its images, decides."""
        of_files = super().content(name, shorter_side=shorter_side, keep_bad=keep_bad)

        return replace(
            of_files, read=partial(self.small, shorter_side=shorter_side), about=of_files.about | {"set": self.which}
        )

    def small(self, path: Path, *, shorter_side: int | None) -> Tensor:
        return at_most(self.item(f"{path.parent.name}/{path.name}"), shorter_side=shorter_side)

    def decoded(self, index: int) -> Tensor:
        return self.item(self.paths[index].decode()) if self.cached is None else super().decoded(index)

    def item(self, name: str) -> Tensor:
        """The image of this name. Raises BadData."""
        try:
            image = self.dataset[int(name.rpartition("/")[2])][0]
            if isinstance(image, Image.Image):
                image = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)
        except DAMAGED as error:
            what = f"image {name} of {self.folder} cannot be read ({type(error).__name__}: {error})"
            raise BadData(what, hint=_AGAIN) from error
        return image
