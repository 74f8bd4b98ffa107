"""What all sources of labelled images share: arguments, facts, and an example batch.

This module has no `from __future__ import annotations`: the check reads these types in the signatures of subclasses.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from plainloop.contracts import Batch, Facts, Split
from plainloop.data.loaders import Loader, eval_splits, loaders


@dataclass(kw_only=True, eq=False)
class LabelledImages(ABC):
    """A subclass adds its own arguments, `known`, `train_batches` and `eval_batches`.

    Args:
        num_workers, prefetch: processes of each rank that decode, and batches that each of them holds ready; accepted
            but not used by data sets in memory.
        max_train_samples: trains on so many at most, of each class in proportion, always the same. None: on all.
        train_eval_samples: how many training samples are measured without augmentation, at most all; 0: none.
        mean, std: per channel, of images in [0, 1]. None: those of the data set.
        sampler: `shuffled` draws each training sample once an epoch, `class_balanced` each class equally often.
        repeats: how often each sample that is drawn is in the batch; an epoch then has 1 / repeats of the samples.
    """

    batch_size: int
    num_workers: int | Literal["auto"] = 0
    prefetch: int = 2
    max_train_samples: int | None = None
    train_eval_samples: int = 2000
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    sampler: Literal["shuffled", "class_balanced"] = "shuffled"
    repeats: int = 1
    train: Mapping[str, Any] = field(default_factory=dict)
    val: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)

    changes_no_result: ClassVar[tuple[str, ...]] = (
        *("root", "download", "device"),
        *("*num_workers", "*batch_size_per_device"),
    )

    split_keys: ClassVar[tuple[str, ...]] = ()  # keys of train, val and test that a subclass adds to the loader's

    def __post_init__(self) -> None:
        given: dict[Split, dict[str, Any]] = {
            "train": dict(self.train),
            "val": dict(self.val),
            "test": dict(self.test),
        }
        self.of_split = {split: {key: own.pop(key, None) for key in self.split_keys} for split, own in given.items()}
        self.loaders = loaders(Loader(self.batch_size, self.num_workers, self.prefetch), **given)
        self.batch_size = self.loaders["train"].batch_size
        self.eval_splits = eval_splits(self.train_eval_samples)

    @abstractmethod
    def known(self) -> Facts:
        """The facts of the whole set, without torch and without decoding an image."""

    def chosen(self, known: Facts) -> Facts:
        """The facts of what is used of the whole set."""
        return known

    def statistics(self, mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """mean and std of the arguments, else these; raises ValueError where they are impossible."""
        own = {"mean": mean if self.mean is None else self.mean, "std": std if self.std is None else self.std}
        for key, values in own.items():
            if len(values) != len(mean):
                raise ValueError(f"data.{key}={list(values)} must have one value for each of the {len(mean)} channels")
        if not all(value > 0 for value in own["std"]):
            raise ValueError(f"data.std={list(own['std'])} must be above 0 everywhere")
        return tuple(map(float, own["mean"])), tuple(map(float, own["std"]))

    @classmethod
    def facts(cls, **arguments: Any) -> Facts:
        source = cls(**({"batch_size": 1} | arguments))
        known = source.chosen(source.known())
        if source.max_train_samples is None:
            return known
        from plainloop.data.loading.stratify import stratified_counts

        counts = tuple(stratified_counts(known.class_counts or (known.num_train,), source.max_train_samples))
        return replace(known, num_train=sum(counts), class_counts=counts if known.class_counts else None)

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        source = cls(**arguments)
        counts, lines = cls.facts(**arguments).class_counts, []
        if source.sampler == "class_balanced" and counts:
            least, most = min(filter(None, counts)), max(counts)
            each = sum(counts) / source.repeats / sum(map(bool, counts))
            lines.append(
                f"class_balanced: an epoch draws each class {each:.4g} times, "
                f"so an image of the smallest class {each / least:.3g} times and of the largest {each / most:.3g} times"
            )
        if source.repeats > 1 and counts:
            lines.append(
                f"repeats: each image that is drawn is {source.repeats} times in the batch, each time augmented anew; "
                f"an epoch is still {sum(counts)} draws, of {-(-sum(counts) // source.repeats)} images"
            )
        return lines

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        """image (B, C, H, W) uint8, label (B,) int64 and index (B,) int64 on the meta device."""
        import torch

        with torch.device("meta"):
            image = torch.empty(batch_size, *facts["image_shape"], dtype=torch.uint8)
            label, index = torch.empty(2, batch_size, dtype=torch.int64)
        return {"image": image, "label": label, "index": index}
