"""Knowledge distillation: a model learns from the labels and from what a trained model says of the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.contracts import Batch, Scalars
from plainloop.tasks.classification import Accuracy, Classification, sample_weights

Teacher = Callable[[Tensor], Tensor]  # images (B, C, H, W) as the student sees them -> logits (B, num_classes)


class Distillation:
    """(1 - alpha) x the loss of `Classification` + alpha x temperature² x the divergence from the teacher's softened
    probabilities (https://arxiv.org/abs/1503.02531). The teacher sees the same augmented images.

    Args:
        teacher: the folder of its run. Which weights are there is kept in the run's facts.
        temperature: above 1 shows how alike the teacher finds the other classes.
        alpha: share of the teacher in the loss, 0 to 1.
        teacher_model: the run gives it; None where nothing is trained.
        The others are those of Classification.
    """

    monitor = "top1"
    mode: Literal["max", "min"] = "max"
    changes_no_result = ("teacher", "class_counts")  # facts are compared: those of the data, the teacher's weights

    def __init__(
        self,
        *,
        teacher: str,
        num_classes: int,
        temperature: float = 4.0,
        alpha: float = 0.9,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        class_counts: Sequence[int] | None = None,
        loss: Literal["cross_entropy", "bce"] = "cross_entropy",
        class_names: Sequence[str] | None = None,
        per_class: bool = False,
        teacher_model: Any = None,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"task.temperature={temperature} must be above 0; 4 is usual")
        if not 0 <= alpha <= 1:
            raise ValueError(f"task.alpha={alpha} must be 0 (the labels alone) to 1 (the teacher alone)")
        self.temperature, self.alpha = temperature, alpha
        self.teacher_model: Teacher | None = teacher_model
        self.labels = Classification(
            num_classes=num_classes,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            class_counts=class_counts,
            loss=loss,
            class_names=class_names,
            per_class=per_class,
        )

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Scalars]:
        """Scalars: those of Classification, "loss" being the sum, and "teacher_loss" without alpha."""
        assert self.teacher_model is not None
        outputs: list[Tensor] = []

        def kept(image: Tensor) -> Tensor:
            outputs.append(model(image))
            return outputs[-1]

        own, scalars = self.labels.loss(kept, batch)  # type: ignore[arg-type]
        with torch.no_grad():
            wanted = self.teacher_model(batch["image"])
        soft = self.divergence(outputs[0].float(), wanted.float(), batch)
        loss = (1 - self.alpha) * own + self.alpha * soft
        return loss, scalars | {"loss": loss.detach(), "teacher_loss": soft.detach()}

    def divergence(self, logits: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
        """temperature² x KL(teacher, student), the mean over the same weights as the loss of the labels."""
        scaled = F.log_softmax(logits / self.temperature, 1), F.log_softmax(wanted / self.temperature, 1)
        losses = F.kl_div(*scaled, reduction="none", log_target=True).sum(1) * self.temperature**2
        class_weights = self.labels.class_weights
        if class_weights is None:
            return losses.mean()
        weights = sample_weights(batch["label"], class_weights)
        return (losses * weights).sum() / weights.sum()

    def weight(self, batch: Batch) -> Tensor:
        return self.labels.weight(batch)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.labels.predict(model, batch)

    def metrics(self) -> Accuracy:
        return self.labels.metrics()

    def __getattr__(self, name: str) -> Any:
        """Optional methods: results, output_problem, ... are those of the labels."""
        if name == "labels":  # not set yet
            raise AttributeError(name)
        return getattr(self.labels, name)
