"""One label per image: cross entropy or one binary decision per class; top-1, top-5 and per-class accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.contracts import Batch, Scalars
from plainloop.distributed import collectives
from plainloop.tasks.class_weights import balanced, check_class_weights
from plainloop.tasks.totals import share, widest_float

# (logits (B, C), label, class_weights (C,) or None, label_smoothing, reduction) -> weighted losses (B,), or their mean.
# Torch's own mean is one kernel instead of three; it is right where no class weighs more than another.
LossFunction = Callable[[Tensor, Tensor, Tensor | None, float, Literal["mean", "none"]], Tensor]


class Classification:
    """Reads `image` (B, C, H, W) and `label`: class numbers (B,) int64, or, once mixed, probabilities (B, num_classes).

    The model gives logits (B, num_classes). Whatever its precision, losses and metrics are computed in float32.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes, in [0, 1)
            (https://arxiv.org/abs/1512.00567).
        class_weights: how many samples one of each class counts for in the training loss, which is divided by the sum
            of the batch's weights; for mixed labels too, where torch divides by the number of samples. "balanced":
            inverse to `class_counts`, with the mean 1.
        class_counts: training samples of each class; needed for "balanced" alone.
        loss: "bce" is the mean over classes of binary cross entropies (https://arxiv.org/abs/2110.00476).
        class_names: of the data, in the order of the labels; needed for `per_class`.
        per_class: adds accuracy/<class name> for each class to every evaluation.

    Raises ValueError for settings out of range, and for a model that gives another number of logits.
    """

    monitor = "top1"
    mode: Literal["max", "min"] = "max"
    changes_no_result = ("class_counts",)  # the data's facts are compared

    def __init__(
        self,
        *,
        num_classes: int,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        class_counts: Sequence[int] | None = None,
        loss: Literal["cross_entropy", "bce"] = "cross_entropy",
        class_names: Sequence[str] | None = None,
        per_class: bool = False,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"task.num_classes={num_classes} must be 1 or more")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing} must be 0 or more and below 1; 0.1 is usual")
        if loss not in ("cross_entropy", "bce"):
            raise ValueError(f"task.loss={loss!r} must be cross_entropy or bce")
        if class_weights == "balanced":
            class_weights = balanced(class_counts)
        if class_weights is not None:
            check_class_weights(class_weights, num_classes)
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"task.class_names has {len(class_names)} names, and there are {num_classes} classes")
        if per_class and class_names is None:
            raise ValueError(
                "task.per_class=true needs the names of the classes: task.class_names='${facts.class_names}'"
            )
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.loss_function: LossFunction = cross_entropy if loss == "cross_entropy" else binary_cross_entropy
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.names = tuple(class_names) if per_class and class_names else ()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Scalars]:
        """Scalars: "loss", and "top1" where labels are not mixed: the plain share of this batch that is right."""
        label = batch["label"]
        logits = self.predict(model, batch).float()
        class_weights = self._weights_at(label)
        if class_weights is None:
            loss = self.loss_function(logits, label, None, self.label_smoothing, "mean")
        else:
            losses = self.loss_function(logits, label, class_weights, self.label_smoothing, "none")
            loss = losses.sum() / sample_weights(label, class_weights).sum()
        scalars = {"loss": loss.detach()}
        if not label.is_floating_point():
            scalars["top1"] = torch.count_nonzero(logits.detach().argmax(1) == label) / len(label)
        return loss, scalars

    def weight(self, batch: Batch) -> Tensor:
        """Samples, or the sum of their class weights; float32 where the labels are."""
        label = batch["label"]
        class_weights = self._weights_at(label)
        if class_weights is None:
            return label.new_full((), len(label), dtype=torch.float32)
        return sample_weights(label, class_weights).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, num_classes), as the model gives them."""
        logits: Tensor = model(batch["image"])
        if problem := self.output_problem(logits, batch):
            raise ValueError(problem)
        return logits

    def output_problem(self, output: Any, batch: Batch) -> str:
        expected = (batch["image"].shape[0], self.num_classes)  # len() would fix the batch of an exported model
        if isinstance(output, Tensor) and output.shape == expected:
            return ""
        got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        what = f"the model gives {got} for a batch of {expected[0]} images, expected logits {expected}; "
        if isinstance(output, Tensor) and output.ndim == len(expected):
            return what + "type model.num_classes='${facts.num_classes}' if only the number of classes differs"
        return what + "choose a model that gives one label to an image"

    def results(self, prediction: Tensor, batch: Batch) -> Batch:
        """`label` (B, num_classes): probabilities; with loss=bce one decision per class, which need not add up to 1."""
        logits = prediction.float()
        return {"label": logits.softmax(1) if self.loss_function is cross_entropy else logits.sigmoid()}

    def metrics(self) -> Accuracy:
        return Accuracy(self.num_classes, loss_function=self.loss_function, names=self.names)

    def _weights_at(self, label: Tensor) -> Tensor | None:
        """The class weights where the labels are; they move there with the first batch and stay."""
        if self.class_weights is not None and self.class_weights.device != label.device:
            self.class_weights = self.class_weights.to(label.device, non_blocking=True)
        return self.class_weights


class Accuracy:
    """Running totals of one pass, where the logits are; labels are class numbers (B,) int64.

    Gives top1; top5, from six classes on; macc, the mean over classes of their accuracies, without classes that had no
    sample; loss, the mean over samples, neither smoothed nor weighted, so that runs which differ in these compare; and
    accuracy/<name> for each of `names`.
    """

    def __init__(self, num_classes: int, *, loss_function: LossFunction, names: Sequence[str] = ()) -> None:
        self.num_classes = num_classes
        self.loss_function = loss_function
        self.names = names
        self._counts: Tensor | None = None  # int64: right per class, seen per class, right among five
        self._loss: Tensor | None = None  # summed up

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Takes logits (B, num_classes). Neither waits for the device nor communicates."""
        logits, label = prediction.float(), batch["label"]
        if self._counts is None or self._loss is None:
            self._counts = label.new_zeros(2 * self.num_classes + 1)
            self._loss = logits.new_zeros((), dtype=widest_float(logits.device))
        self._counts.index_add_(0, label, (logits.argmax(1) == label).long())
        self._counts.index_add_(0, label + self.num_classes, torch.ones_like(label))
        if self.num_classes > 5:
            self._counts[-1] += (logits.topk(5, dim=1).indices == label[:, None]).sum()
        self._loss += self.loss_function(logits, label, None, 0.0, "none").to(self._loss.dtype).sum()

    def compute(self) -> dict[str, float]:
        """NaN where there was no sample on any rank. Collective: one reduction."""
        if self._counts is None or self._loss is None:
            totals = torch.zeros(2 * self.num_classes + 2, dtype=torch.float64)
        else:
            # Waits for the device. On the host there is float64 on every machine, exact for counts up to 2**53.
            totals = torch.cat([self._counts.cpu().double(), self._loss.cpu().double().view(1)])
        return self.values(collectives.sum_(totals))

    def sums(self, prediction: Tensor, batch: Batch) -> Tensor:
        """(B, 2 * num_classes + 2): right per class, seen per class, right among five, loss; as `update` counts."""
        logits, label = prediction.float(), batch["label"]
        sums = logits.new_zeros(len(label), 2 * self.num_classes + 2, dtype=widest_float(logits.device))
        sums.scatter_(1, label[:, None], (logits.argmax(1) == label)[:, None].to(sums.dtype))
        sums.scatter_(1, label[:, None] + self.num_classes, 1.0)
        if self.num_classes > 5:
            sums[:, -2] = (logits.topk(5, dim=1).indices == label[:, None]).any(1)
        sums[:, -1] = self.loss_function(logits, label, None, 0.0, "none")
        return sums

    def values(self, totals: Tensor) -> dict[str, float]:
        right, seen = totals[: self.num_classes].tolist(), totals[self.num_classes : -2].tolist()
        right_in_5, loss = totals[-2:].tolist()
        accuracies = [share(part, whole) for part, whole in zip(right, seen, strict=True)]
        met = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
        result = {"loss": share(loss, sum(seen)), "top1": share(sum(right), sum(seen))}
        if self.num_classes > 5:
            result["top5"] = share(right_in_5, sum(seen))
        result["macc"] = share(math.fsum(met), len(met))
        return result | {f"accuracy/{name}": accuracies[number] for number, name in enumerate(self.names)}


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
    reduction: Literal["mean", "none"],
) -> Tensor:
    return F.cross_entropy(logits, label, class_weights, reduction=reduction, label_smoothing=label_smoothing)


def binary_cross_entropy(
    logits: Tensor,
    label: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
    reduction: Literal["mean", "none"],
) -> Tensor:
    target = probabilities(label, logits)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    if reduction == "mean":
        return F.binary_cross_entropy_with_logits(logits, target)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    return losses if class_weights is None else losses * sample_weights(label, class_weights)


def probabilities(label: Tensor, logits: Tensor) -> Tensor:
    """Labels in either form as probabilities (B, C). `F.one_hot` would wait for the device to look at their range."""
    if label.is_floating_point():
        return label
    return torch.zeros_like(logits).scatter_(1, label[:, None], 1.0)


def sample_weights(label: Tensor, class_weights: Tensor) -> Tensor:
    """(B,): the weight of each sample's class, or what the parts of a mixed label weigh together."""
    return label @ class_weights if label.is_floating_point() else class_weights[label]
