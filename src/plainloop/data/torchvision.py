"""The classification sets of torchvision.datasets, by their own names and arguments; decoded by worker processes."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plainloop.contracts import Facts, Split
from plainloop.data.decoded import IMAGENET_MEAN, IMAGENET_STD, DecodedImages
from plainloop.data.loading.download import cache_folder
from plainloop.data.loading.stratify import num_held_out
from plainloop.errors import BadData

if TYPE_CHECKING:
    from plainloop.data.loading.samples import Images
    from plainloop.data.loading.torchvision_sets import Labelled

_VAL = ("val", "valid")
_DEFAULTS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "train-standard", "trainval"),
    "val": (*_VAL, "test"),
    "test": ("test",),
}


@dataclass(kw_only=True, eq=False)
class Torchvision(DecodedImages):
    """`torchvision.datasets.<name>`, read from files that it has, or has downloaded. All images become RGB.

    Its `train` split is trained on, its `val` split validated on; where it has none, its `test` split; a set of one
    part is split by `val_fraction`. `train.split`, `val.split` and `test.split` choose others, or `none`.

    Args:
        root: the folder that torchvision's class takes. None: the user's cache.
        download: lets torchvision download what is missing, when the config is checked.
        arguments: others of its class, as partition of DTD.
        val_fraction: the share of each class to validate on where that is taken out of the training images.

    Raises BadData when torchvision cannot read the set.
    """

    name: str
    root: str | None = None
    download: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    val_fraction: float = 0.2

    split_keys: ClassVar = ("split",)

    def known(self) -> Facts:
        mean, std = self.statistics(IMAGENET_MEAN, IMAGENET_STD)
        parts = self.parts()
        train, names = parts["train"], parts["train"].class_names
        counts = [0] * len(names)
        for label in train.labels.tolist():
            counts[label] += 1
        num_val = len(parts["val"].labels) if "val" in parts else 0
        if "val" not in parts:
            held_out = [num_held_out(count, self.val_fraction) for count in counts]
            counts, num_val = [count - out for count, out in zip(counts, held_out, strict=True)], sum(held_out)
        self.require_room_for_cache()
        shape = (3, self.image_size, self.image_size)
        return Facts(sum(counts), num_val, names, shape, mean, std, tuple(counts))

    def parts(self) -> dict[Split, Labelled]:
        """The set's own splits. Downloads them if asked to."""
        return {split: self._read(split, own) for split, own in self.own_splits().items()}

    @property
    def folder(self) -> Path:
        return cache_folder() if self.root is None else Path(self.root).expanduser().absolute()

    def _read(self, split: Split, own: Mapping[str, Any]) -> Labelled:
        from plainloop.data.loading.torchvision_sets import parameters_of, read

        base = self.folder
        arguments = {**self.arguments, **own}
        spelled = ", ".join(f"{key}={value}" for key, value in own.items())
        if self.download and "download" in parameters_of(self.name):
            with one_at_a_time(base):
                return read(self.name, base, json.dumps(arguments), spelled, download=True)
        return read(self.name, base, json.dumps(arguments), spelled)

    def own_splits(self) -> dict[Split, dict[str, Any]]:
        """The arguments with which its class gives each split. Raises BadData for splits that it has not."""
        from plainloop.data.loading.torchvision_sets import splits_of

        argument, names = splits_of(self.name)
        asked = {split: own["split"] or "auto" for split, own in self.of_split.items()}
        for split, name in asked.items():
            if name not in ("auto", "none", *names) or (split, name) == ("train", "none"):
                has = f"its splits are {', '.join(names)}" if names else "it has one part"
                instead = first(_DEFAULTS[split], names) if names else "auto"
                raise BadData(f"data.{split}.split={name}: {has}", hint=f"data.{split}.split={instead}")
        train = first(_DEFAULTS["train"], names) if asked["train"] == "auto" else asked["train"]
        left = [name for name in names if name != train and not (train == "trainval" and name in _VAL)]
        val = first(_DEFAULTS["val"], left) if asked["val"] == "auto" else asked["val"]
        test = (
            first(_DEFAULTS["test"], [name for name in left if name != val])
            if asked["test"] == "auto"
            else asked["test"]
        )
        chosen: dict[Split, str] = {"train": train, "val": val, "test": test}
        if not names:
            return {"train": {}}
        return {
            split: {argument: name == "train" if argument == "train" else name}
            for split, name in chosen.items()
            if name != "none"
        }

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        source = cls(**arguments)
        own, parts = source.own_splits(), source.parts()
        where = [f"{split} is {part.spelled or 'the whole set'} ({len(part.labels)})" for split, part in parts.items()]
        line = f"torchvision.datasets.{source.name}: {', '.join(where)}"
        if "val" not in own:
            line += f", val takes {source.val_fraction:g} of each class of train"
        return [line, *super().plan_lines(**arguments), *source.cache_lines()]

    def all_images(self) -> dict[Split, Images]:
        from plainloop.data.loading.stratify import stratified_split
        from plainloop.data.loading.torchvision_sets import Items

        which = json.dumps([self.name, dict(self.arguments), str(self.folder)])
        items = partial(Items.of, image_size=self.image_size, crop_fraction=self.crop_fraction)
        images: dict[Split, Images] = {
            split: items(part, self.name, which=f"{which} {part.spelled}") for split, part in self.parts().items()
        }
        if "val" not in images:
            whole = images["train"]
            kept, held_out = stratified_split(whole.labels, fraction=self.val_fraction)
            images |= {"train": whole.rows(kept), "val": whole.rows(held_out)}
        return images


def first(wanted: Sequence[str], names: Sequence[str]) -> str:
    """
    >>> first(("val", "test"), ["train", "test"]), first(("val",), ["train"])
    ('test', 'none')
    """
    return next((name for name in wanted if name in names), "none")


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits while another process on this machine, such as another rank, downloads into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".download.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
