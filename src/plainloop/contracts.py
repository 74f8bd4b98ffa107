"""The methods that a task, a data source, an augmentation, a schedule and a logger must have.

An object with these methods can be plugged in, whatever its package; a YAML file names it by `_target_`. Methods that a
part may also have stand at the end. Nothing here imports torch, so that a config can be checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

# Named tensors, first dimension is the batch. Classification: image (B, C, H, W), label (B,) int64, index (B,) int64.
# Sources give images as uint8; augmentations see float32 in [0, 1], the model sees them normalized.
Batch = dict[str, "Tensor"]

# One sample, with the entries of a batch, without their first dimension. In the workers an image is uint8 of any size.
Sample = dict[str, "Tensor"]

# Entries that belong to places in the image, where a task has them: mask (B, H, W) int64; boxes (B, N, 4), x0 y0 x1 y1
# in pixels, with box_label (B, N) and box_valid (B, N) bool; instance_mask (B, N, H, W); polygons (B, N, V, 2), x and
# y, with box_valid. Pixels of a mask that have no class are IGNORE. What else has a row for each object is named
# box_...: augmentations that put images together take its rows along. In evaluation, where images of files stand in the
# top left of a frame: image_scale (B,) float32, pixels of the frame for each of the file, and image_size (B, 2)
# int64, height and width of the file. Detections are cut off where the photograph ends. Where objects have outlines,
# also instance_runs (B, L) uint8: COCO's run lengths in pixels of the file, of each object with a line feed at its end.
IGNORE = 255

# 0-d, detached, still on the device: means over the batch. Reading one is a wait for the device.
Scalars = dict[str, "Tensor"]

# (batch, finished optimizer steps) -> batch. Whole batch on the device, image float32 in [0, 1]. It draws by
# `augment.draws`, so that any number of ranks sees the same images; or from the global generators, which are seeded
# from (seed, step, rank) before it is called.
Augment = Callable[[Batch, int], Batch]

# One sample -> one sample, in a worker; it moves spatial entries with their image, or refuses the sample. Draws from
# the global generators, which are seeded from (seed, epoch, index) before it is called.
SampleTransform = Callable[[Sample], Sample]

# Finished optimizer steps -> multiplier of each parameter group's base rate. One that also cycles momentum has a method
# `momentum(step) -> float`.
Schedule = Callable[[int], float]

# A parameter so annotated takes 5ep | 1000st | 10% in YAML and is a number of optimizer steps in code.
Steps = NewType("Steps", int)

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Facts:
    """What is known of a data set without decoding it; other groups read it as `${facts.num_classes}` and the like."""

    num_train: int
    num_val: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # (C, H, W) that the model sees
    mean: tuple[float, ...]  # per channel, of images in [0, 1]
    std: tuple[float, ...]
    class_counts: tuple[int, ...] | None = None  # training samples of each class; None: not known
    files_hash: str = ""  # changes when a file is added, removed or renamed; "": not known

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class Preprocessing:
    """What evaluation does to an image before it is part of a batch."""

    prepare: Callable[[Tensor], Tensor]  # (3, H, W) uint8, RGB -> (C, H', W') uint8; a function that workers can get
    one_size: bool = True  # false: images differ in size, because they keep their own or some are wide and some tall
    crop_fraction: float | None = None  # the shorter side becomes size / crop_fraction, then the centre is cut out
    interpolation: str = "bilinear"  # of torchvision, with antialiasing
    # One factor for both sides, the largest with which the image fits; it stands in the top left, grey beside it. So
    # places in the result, divided by the factor, are places in the image. False: each side has its own factor.
    letterboxed: bool = False


class Task(Protocol):
    """What is being learned: the loss, what it is a mean over, how to predict, and what to count."""

    monitor: str  # the metric that decides the best checkpoint, without its split: "top1"
    mode: Literal["max", "min"]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Scalars]:
        """Mean loss of the batch (0-d, differentiable), and scalars to log; they hold "loss" at least."""

    def weight(self, batch: Batch) -> Tensor:
        """0-d: what that loss is a mean over (samples, valid pixels, sum of class weights)."""

    def predict(self, model: nn.Module, batch: Batch) -> Any:
        """What `Metrics.update` takes: logits, masks, boxes."""

    def metrics(self) -> Metrics:
        """Fresh running totals for one pass over a split."""


class Metrics(Protocol):
    def update(self, prediction: Any, batch: Batch) -> None:
        """Adds a batch. Neither waits for the device nor communicates."""

    def compute(self) -> dict[str, float]:
        """Over all ranks, every sample counted once. Collective; the same on every rank."""


class Data(Protocol):
    """Batches already sharded over ranks, functions of position; each carries `index` (B,), the samples' numbers."""

    batch_size: int  # global: samples per optimizer step over ranks and micro-batches

    @classmethod
    def facts(cls, **arguments: Any) -> Facts:
        """Takes the constructor's arguments; decodes nothing. Raises BadData when data are missing or wrong."""

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        """This rank's rows of the global batches of steps start, ..., stop - 1, without reading any earlier one."""

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """Each sample of the split once over all ranks, without padding. "train" is a fixed, un-augmented slice."""


class Logger(Protocol):
    """Receives what is logged. Exists on rank 0 only."""

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Opens. Lines after `step` that an earlier attempt left are void and are removed."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row of "split/name" keys. Keys under time/ may differ between two equal runs; no others do."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Closes; called at the end and when the run stops early, then with the summary so far."""


# Optional methods. Each is looked up by name; a part without it works, and only that one service is missing.


class GivesExampleBatch(Protocol):
    """A data source whose batches can be tried on the other parts before any file is read."""

    @classmethod
    def example_batch(cls, facts: Mapping[str, Any], batch_size: int) -> Batch:
        """A batch as `train_batches` gives it, on the meta device (shapes and types, no values).

        facts: the config's node `facts`: the fields of `Facts` and `num_classes`.
        """


class ChecksOutput(Protocol):
    """A task that can say whether a model fits it."""

    def output_problem(self, output: Any, batch: Batch) -> str:
        """What is wrong with a model's output for this batch, in one sentence; "" if nothing is. Reads shapes only.

        Of a model that `NamesItsOutput` the values are None.
        """


class GivesResults(Protocol):
    """A task whose predictions are written, drawn and captioned as samples are. Who reads them asks for entries."""

    def results(self, prediction: Any, batch: Batch) -> Batch:
        """The prediction under the names of a batch's entries, final: no logits. On the prediction's device.

        `label` (B, num_classes) float32: the probability of each class; `mask` (B, H, W) int64; `boxes` with
        `box_label`, `box_valid` and `box_score` (B, N) float32. Of the batch only the image is sure to be there.
        """


class SumsMetrics(Protocol):
    """Metrics that follow from sums over samples: `compute()` is `values` of what `sums` gives for all of them.

    From these come the metrics of one sample, intervals, and comparisons of two runs on the same samples.
    """

    def sums(self, prediction: Any, batch: Batch) -> Tensor:
        """(B, K): what each sample adds to the totals; float64 where the device has it. K is the same for all."""

    def values(self, totals: Tensor) -> dict[str, float]:
        """The metrics of totals (K,) float64 on the host; NaN where there was nothing to measure."""


class GivesDetails(Protocol):
    """Metrics that tell more of a pass than numbers: for report.html, and rows of samples.csv."""

    def details(self) -> Any:
        """Gives a `Details` of tasks/details.py. Called after `compute` where somebody wants it, as at a new best.

        Collective; the same on every rank.
        """


class Resamples(Protocol):
    """Metrics that are no sums over samples, and yet can say what they would be on other choices of these samples."""

    def resampled(self, times: Callable[[Any], Any]) -> dict[str, Any]:
        """Called after `compute`. Each metric in each of S choices, float64 (S,).

        times: samples' indices (B,) -> (S, B): how often each choice has each sample; NumPy arrays.
        """


class DrawsPictures(Protocol):
    """A task with pictures of its own for the report, of the samples that it chooses."""

    def pictures(self, prediction: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,): the highest are shown, those below 0 never; (B, 1 or 3, H, W): a picture of each, bytes or in [0, 1].

        `image` in the batch is as the data gave it. Never waits for the device.
        """


class ChoosesEvalSplits(Protocol):
    """A data source that decides what each evaluation measures; without it ("val", "train")."""

    eval_splits: tuple[Split, ...]  # "val" at least


class DescribesData(Protocol):
    """A data source that adds its own lines to the plan."""

    @classmethod
    def plan_lines(cls, **arguments: Any) -> list[str]:
        """Takes the constructor's arguments. Says which folders and files are used, and which are not."""


class RefusesTransforms(Protocol):
    """A data source that cannot use every augmentation which runs in its workers; the check asks it."""

    def refuse_transform(self, name: str, transform: SampleTransform) -> None:
        """`name` is the entry of `augment`. Raises BadConfig."""


class DescribesModel(Protocol):
    """A model that adds its own lines to the plan, such as what of the loop's promises it does not keep."""

    waits_each_step: bool  # whether the host waits for the device in its forward pass

    def plan_lines(self) -> list[str]: ...


class NamesItsOutput(Protocol):
    """A model that says what the check cannot try; each of these may be missing."""

    gives: tuple[str, ...]  # the entries of its output: its task is asked whether this is what it needs
    losses: tuple[str, ...]  # which `task.losses` weighs: other names are refused
    learns_from_masks: bool  # of objects: refused where `data.instance_masks` is false


class WorksInWorkers(Protocol):
    """An augmentation that runs on single samples in the data workers, where the source has workers."""

    def sample(self, sample: Sample) -> Sample:
        """A `SampleTransform`: image (C, H, W) uint8 of any size, and what else the sample has."""


class ChangesSizes(Protocol):
    """An augmentation of whole batches after which images can be larger than the data give them."""

    def largest(self) -> Augment:
        """The same, with the largest images at every step: the plan and find_batch_size count with them."""
        ...


class SkipsSamples(Protocol):
    """A data source that can go on without samples which it cannot read."""

    def take_skipped(self) -> list[dict[str, Any]]:
        """What this rank has skipped since the last call: {"split", "index", "why"}."""

    def require_few_skipped(self, skipped: Sequence[Mapping[str, Any]]) -> None:
        """Takes what all ranks have skipped. Raises BadData, on all ranks alike, when it is too much by now."""


class PreparesImages(Protocol):
    """A data source that says how evaluation would see an image file that is not one of its own.

    Without it such an image is resized to facts.image_shape, and made grey where that has one channel.
    """

    @classmethod
    def preprocessing(cls, **arguments: Any) -> Preprocessing:
        """Takes the constructor's arguments; the data need not be there. Where samples have masks or boxes, `prepare`
        must keep the whole image.
        """


class NamesFiles(Protocol):
    """A data source whose facts have a `files_hash`."""

    @classmethod
    def file_names(cls, **arguments: Any) -> Iterator[str]:
        """Takes the constructor's arguments. The names of all files, from its root, in a fixed order.

        A name may be followed by a tab and the file's size, or a digest: a resume names files of which it has changed.
        """


class NamesSamples(Protocol):
    """A data source whose samples have names that a person knows, such as files."""

    def name_of(self, split: Split, index: int) -> str:
        """The name of the sample with this `index` in the batches of the split."""


class HarmlessArguments(Protocol):
    """A part of which some arguments may have other values when a run is resumed."""

    changes_no_result: tuple[str, ...]  # names or patterns (fnmatch) of its own arguments: "timeout", "*num_workers"
