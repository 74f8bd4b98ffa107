"""Handwritten digits on photographs, both from scikit-learn: embedded images with masks, for segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.contracts import Batch, Facts, Preprocessing, Split
from plainloop.data.digits import Digits
from plainloop.data.masks.example import mask_batch, refuse_class_balanced
from plainloop.data.small_set import SmallSet
from plainloop.errors import BadData

if TYPE_CHECKING:
    from plainloop.data.masks.scenes import Bytes, Scene, Sources

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
CUT = {"train": (0, 400), "val": (440, 640)}  # columns of each photograph, of 640
CLASSES = ("background", *"0123456789")


@dataclass(kw_only=True, eq=False)
class DigitScenes(SmallSet):
    """Made at the start of a run, the same for every seed; held on the device.

    Real pixels in an artificial arrangement: 1,797 digits of 8 x 8, enlarged, on parts of two photographs. Training and
    validation have neither digits nor places of the photographs in common.

    Args:
        num_train, num_val: scenes to make.
        num_digits: the digits 0, 1, ... that occur, each a class; the background is one more.
        image_size: pixels, of a side.
    """

    num_train: int = 1600
    num_val: int = 400
    num_digits: int = 5
    image_size: int = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_class_balanced(self.sampler)
        least = {"num_train": 1, "num_val": 1, "image_size": 32, "num_digits": 1}
        for key, smallest in least.items():
            if getattr(self, key) < smallest:
                raise ValueError(f"data.{key}={getattr(self, key)} must be at least {smallest}")
        if self.num_digits > 10:
            raise ValueError(f"data.num_digits={self.num_digits} must be at most 10")

    def known(self) -> Facts:
        mean, std = self.statistics((0.40,) * 3, (0.29,) * 3)
        return Facts(
            self.num_train,
            self.num_val,
            CLASSES[: 1 + self.num_digits],
            (3, self.image_size, self.image_size),
            mean,
            std,
        )

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        return mask_batch(facts, batch_size)

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        from plainloop.data.loading.outside import as_it_is

        return Preprocessing(as_it_is, one_size=False)

    def read(self) -> Mapping[Split, Batch]:
        counts: dict[Split, int] = {"train": self.num_train, "val": self.num_val}
        return {split: self.as_batch(made) for split, made in scenes(counts, self.num_digits, self.image_size)}

    def as_batch(self, made: Iterable[Scene]) -> Batch:
        """A split whole."""
        import numpy as np
        import torch

        pairs = [(scene.image, scene.mask) for scene in made]
        images, masks = (np.stack(parts) for parts in zip(*pairs, strict=True))
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            "mask": torch.from_numpy(masks).long(),
        }


def scenes(counts: Mapping[Split, int], num_digits: int, size: int) -> Iterator[tuple[Split, Iterator[Scene]]]:
    """So many scenes for each split, always the same."""
    import numpy as np

    from plainloop.data.masks.scenes import make_scene
    from plainloop.system.rng import SPLIT, fold

    for number, (split, count) in enumerate(counts.items()):
        sources = sources_of(split, num_digits)
        seeds = [fold(SPLIT, 2, number, i) for i in range(count)]
        yield split, (make_scene(sources, size, np.random.default_rng(seed)) for seed in seeds)


def sources_of(split: Split, num_digits: int) -> Sources:
    from plainloop.data.masks.scenes import Sources

    digits = Digits(batch_size=1).read()[split]
    chosen, (first, last) = digits["label"] < num_digits, CUT[split]
    glyphs = (digits["image"][chosen, 0].float() / 255).numpy()
    photographs = [photograph(name)[:, first:last] for name in PHOTOGRAPHS]
    return Sources(glyphs, digits["label"][chosen].numpy(), photographs)


def photograph(name: str) -> Bytes:
    import numpy as np
    from PIL import Image

    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "datasets" / "images" / name
        if path.exists():
            with Image.open(path) as opened:
                return np.asarray(opened.convert("RGB"))
    raise BadData(
        "data=digit_scenes: scikit-learn, which brings its pictures, is not installed", hint="type: make setup"
    )
