"""A trained model that takes images as people have them, and answers in the names of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from plainloop.config.parts import preprocessing_of
from plainloop.contracts import Batch, Sample
from plainloop.data.loading.decode import decode
from plainloop.data.loading.outside import of_picture
from plainloop.errors import BadConfig
from plainloop.run.trained.folder import run_of_file
from plainloop.run.trained.open import Trained, open_run, require_plugins
from plainloop.tasks.boxes.found import Found, found_in, told

Picture = Image.Image | NDArray[Any] | str | Path
# Images of one size that go through the model together. On a CPU, larger batches leave its caches: they take longer.
BATCH_SIZE, BATCH_SIZE_ON_CPU = 64, 16
MOST_SHOWN = 5  # classes or objects of a printed prediction
LEAST_SCORE = 0.3  # of an object that is shown to a person
PICTURE = "an image of PIL, an array of uint8 or a path"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image. An entry that its task does not give is empty, or None."""

    class_names: tuple[str, ...]
    probabilities: dict[str, float] = field(default_factory=dict)  # by class name, best first
    mask: NDArray[np.int64] | None = None  # (H, W) of the image's own size: the number of the class in `class_names`
    found: Found | None = None  # the objects, the best first; what follows is the same as arrays

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4): x0 y0 x1 y1 in pixels of the image."""
        return np.zeros((0, 4), np.float32) if self.found is None else self.found.boxes

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) in [0, 1]."""
        return np.zeros(0, np.float32) if self.found is None else self.found.scores

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes of the N objects."""
        return () if self.found is None else self.found.names(self.class_names)

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """(N, H, W) of the image's own size: the pixels of each object; None where the model gives only boxes."""
        if self.found is None or self.found.prepared is None:
            return None
        masks = np.zeros((len(self.found), *self.found.size), np.bool_)
        for number in range(len(masks)):
            masks[number] = self.found.mask(number)
        return masks

    @property
    def name(self) -> str:
        """The most probable class."""
        return next(iter(self.probabilities))

    @property
    def shares(self) -> dict[str, float]:
        """By class name, its share of the mask's pixels, largest first; without classes that do not occur."""
        return {} if self.mask is None else shares(self.mask, self.class_names)

    def __str__(self) -> str:
        if self.found is not None:
            return told(self.names, self.scores.tolist())
        shown = list((self.probabilities or self.shares).items())
        words = [f"{name} {share:.1%}" for name, share in shown[:MOST_SHOWN]]
        return ", ".join(words) + (", ..." if len(shown) > MOST_SHOWN else "")


class Predictor:
    """Calls with an image, a path, or a list of them give a `Prediction`, or a list of them.

    An image goes through what it would go through in an evaluation of the run. It is one of PIL, or an array of uint8:
    (H, W, 3), red first, or (H, W).
    """

    def __init__(self, trained: Trained) -> None:
        require_plugins(trained.config, trained.config["plugins"], groups=("data",))
        if not hasattr(trained.task, "results"):
            raise BadConfig(
                f"the task {type(trained.task).__name__} cannot be asked for plain results: it has no method results",
                hint="give it one: see GivesResults in contracts.py",
            )
        self.trained = trained
        self.class_names = trained.class_names
        self.preprocessing = preprocessing_of(trained.config)

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE_ON_CPU if self.trained.device.type == "cpu" else BATCH_SIZE

    @overload
    def __call__(self, images: Picture, *, least_score: float = ...) -> Prediction: ...  # type: ignore[overload-overlap]  # a text is a path

    @overload
    def __call__(self, images: Sequence[Picture], *, least_score: float = ...) -> list[Prediction]: ...

    def __call__(
        self, images: Picture | Sequence[Picture], *, least_score: float = LEAST_SCORE
    ) -> Prediction | list[Prediction]:
        """Objects below `least_score` are left out; 0 gives all that the model gives.

        Raises BadData for a file that cannot be read, TypeError for what is no image.
        """
        if isinstance(images, Image.Image | np.ndarray | str | Path):
            return self([images], least_score=least_score)[0]
        if not isinstance(images, list | tuple):
            raise TypeError(f"expected {PICTURE}, or a list of them; got {type(images).__name__}")
        found, size = [], self.batch_size if self.preprocessing.one_size else 1
        for start in range(0, len(images), size):
            pixels = [self._pixels(image) for image in images[start : start + size]]
            batch = {"image": torch.stack([self.preprocessing.prepare(one) for one in pixels])}
            results = self.results(batch)
            for row, one in enumerate(pixels):
                result = {name: values[row] for name, values in results.items()}
                found.append(self.prediction(result, batch["image"].shape[-2:], one.shape[-2:], least_score))
        return found

    def _pixels(self, image: Picture) -> Tensor:
        if isinstance(image, Image.Image):
            return of_picture(image)
        if isinstance(image, str | Path):
            return decode(Path(image).expanduser())
        if not isinstance(image, np.ndarray):
            raise TypeError(f"expected {PICTURE}; got {type(image).__name__}")
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise TypeError(f"expected an array of uint8, (H, W, 3) or (H, W); got {image.dtype}, {image.shape}")
        return of_picture(Image.fromarray(image))

    def results(self, batch: Batch) -> Batch:
        """The task's results for a batch of prepared images (B, C, H, W) uint8, on the host."""
        found: dict[str, Any] = self.trained.task.results(self.trained.predict(batch), batch)  # type: ignore[attr-defined]
        return {name: values.cpu() for name, values in found.items()}  # waits for the device

    def prediction(self, result: Sample, seen: Sequence[int], size: Sequence[int], least_score: float) -> Prediction:
        """Of one image, with its height and width as the model saw it, and before that."""
        probabilities, mask, found = {}, None, None
        if "label" in result:
            (probabilities,) = ranked(result["label"][None], self.class_names)
        if "mask" in result:
            mask = of_size(result["mask"], size).numpy()
        if "boxes" in result:
            found = self.found(result, seen, size)
            found = found.chosen(found.scores >= least_score)
        return Prediction(self.class_names, probabilities, mask, found)

    def found(self, result: Sample, seen: Sequence[int], size: Sequence[int]) -> Found:
        """All objects of one image."""
        return found_in(result, seen, size, letterboxed=self.preprocessing.letterboxed)


def ranked(label: Tensor, class_names: Sequence[str], most: int | None = None) -> list[dict[str, float]]:
    """Of each row of probabilities (B, num_classes): the class names with their own, best first; `most` of them."""
    values, order = label.sort(dim=1, descending=True, stable=True)
    rows = zip(values[:, :most].tolist(), order[:, :most].tolist(), strict=True)
    return [{class_names[number]: value for value, number in zip(*row, strict=True)} for row in rows]


def shares(mask: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(mask.ravel(), minlength=len(class_names))
    order = np.argsort(-counts, kind="stable")
    return {class_names[number]: float(counts[number] / mask.size) for number in order if counts[number]}


def of_size(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (H, W) for an image of another size: each pixel takes the nearest class."""
    if tuple(mask.shape) == tuple(size):
        return mask
    return F.interpolate(mask[None, None].double(), tuple(size), mode="nearest-exact")[0, 0].long()


def load(
    run: str | Path, checkpoint: str | int = "best", *, device: str | None = None, plugins: Sequence[str] = ()
) -> Predictor:
    """The trained model of a run directory, or of a file in one, with its preprocessing and class names.

    Args:
        checkpoint: best, last, or the step of a checkpoint.
        device: `auto`, `cuda`, `cpu` or `mps`; None: the run's, or `auto` where this machine lacks that.
        plugins: packages of your own that the run's config names.

    Raises BadConfig and BadData, which say what is wrong with the folder.
    """
    folder, chosen = run_of_file(Path(run).expanduser(), None if checkpoint == "best" else str(checkpoint))
    return Predictor(open_run(folder, chosen or "best", device=device, plugins=plugins))
