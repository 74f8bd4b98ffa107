"""What is learned is the mean that one process would compute; every sample is counted once; nothing waits."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.config.build import build
from plainloop.config.durations import Clock
from plainloop.contracts import Batch
from plainloop.tasks.classification import Accuracy, Classification
from tests.harness.configs import checked
from tests.harness.tensors import HostRead, NoHostReads

CLASSES = 7
WEIGHTS = [1.0, 2.0, 0.5, 3.0, 1.0, 0.25, 4.0]
LOSSES = ["cross_entropy", "bce"]


class Logits(nn.Module):
    """Takes the images for logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.scale


def batch_of(num: int, *, seed: int = 0, mixed: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (num,), generator=generator)
    image = torch.randn(num, CLASSES, generator=generator)
    if mixed:
        other, part = label.roll(1), torch.rand(num, 1, generator=generator)
        label = part * F.one_hot(label, CLASSES) + (1 - part) * F.one_hot(other, CLASSES)
    return {"image": image, "label": label}


def part(batch: Batch, rows: slice) -> Batch:
    return {name: tensor[rows] for name, tensor in batch.items()}


def loss_of(task: Classification, batch: Batch) -> float:
    return task.loss(Logits(), batch)[0].item()


# The loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(smoothing: float, weights: list[float] | None) -> None:
    batch = batch_of(16)
    task = Classification(num_classes=CLASSES, label_smoothing=smoothing, class_weights=weights)
    class_weights = None if weights is None else torch.tensor(weights)
    theirs = F.cross_entropy(batch["image"], batch["label"], class_weights, label_smoothing=smoothing)
    # Weighted means divide in another order than torch's: one unit in the last place.
    assert loss_of(task, batch) == pytest.approx(theirs.item(), rel=0 if weights is None else 2e-7)


def test_bce_is_one_decision_per_class_by_hand() -> None:
    batch = {"image": torch.tensor([[math.log(3.0), 0.0]]), "label": torch.tensor([0])}
    task = Classification(num_classes=2, loss="bce")
    assert loss_of(task, batch) == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2, rel=1e-6)
    smoothed = Classification(num_classes=2, loss="bce", label_smoothing=0.2)
    by_hand = (-0.9 * math.log(0.75) - 0.1 * math.log(0.25) - math.log(0.5)) / 2
    assert loss_of(smoothed, batch) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_label_counts_the_same_as_a_number_and_as_probabilities(loss: Any, weights: list[float] | None) -> None:
    task = Classification(num_classes=CLASSES, loss=loss, class_weights=weights, label_smoothing=0.1)
    batch = batch_of(16)
    soft = batch | {"label": F.one_hot(batch["label"], CLASSES).float()}
    assert loss_of(task, soft) == pytest.approx(loss_of(task, batch), rel=1e-6)
    assert task.weight(soft).item() == task.weight(batch).item()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_weight_of_two_is_the_sample_twice(loss: Any) -> None:
    twice = {name: tensor[[0, 1, 1]] for name, tensor in batch_of(2).items()}
    once = part(twice, slice(0, 2)) | {"label": torch.tensor([0, 1])}
    twice |= {"label": torch.tensor([0, 1, 1])}
    weighted = Classification(num_classes=CLASSES, loss=loss, class_weights=[1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    plain = Classification(num_classes=CLASSES, loss=loss)
    assert loss_of(weighted, once) == pytest.approx(loss_of(plain, twice), rel=1e-6)
    assert weighted.weight(once).item() == plain.weight(twice).item() == 3.0


def test_balanced_weights_are_inverse_to_the_counts_of_the_data_with_the_mean_one() -> None:
    node = checked("task.class_weights=balanced")["task"]
    weights = build(node, Clock(1, 1)).class_weights
    counts = torch.tensor(node["class_counts"])
    torch.testing.assert_close(weights * counts, (weights * counts)[:1].expand(10))
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)


def measured(task: Classification, batches: list[Batch]) -> dict[str, float]:
    metrics = task.metrics()
    for batch in batches:
        metrics.update(batch["image"], batch)
    return metrics.compute()


def in_parts(task: Classification, batch: Batch, *, weigh: bool = True) -> tuple[float, float]:
    """Loss and gradient from unequal micro-batches, put together as the trainer does."""
    model, total, loss_sum = Logits(), sum(float(task.weight(p)) for p in parts(batch)), 0.0
    for micro_batch in parts(batch):
        share = float(task.weight(micro_batch)) / total if weigh else 1 / len(parts(batch))
        loss = task.loss(model, micro_batch)[0] * share
        loss.backward()
        loss_sum += loss.item()
    assert model.scale.grad is not None
    return loss_sum, model.scale.grad.item()


def parts(batch: Batch) -> list[Batch]:
    return [part(batch, rows) for rows in (slice(0, 3), slice(3, 4), slice(4, 16))]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("mixed", [False, True])
def test_accumulation_gives_the_loss_and_gradient_of_the_whole_batch(loss: Any, weights: Any, mixed: bool) -> None:
    task = Classification(num_classes=CLASSES, loss=loss, class_weights=weights, label_smoothing=0.1)
    batch, model = batch_of(16, mixed=mixed), Logits()
    whole = task.loss(model, batch)[0]
    whole.backward()
    assert model.scale.grad is not None
    expected = (whole.item(), model.scale.grad.item())
    # Sums of 16 float32 numbers in another order.
    assert in_parts(task, batch) == pytest.approx(expected, rel=1e-5)
    assert in_parts(task, batch, weigh=False) != pytest.approx(expected, rel=1e-3)  # the control


def test_top1_is_the_share_that_is_right_and_absent_where_labels_are_mixed() -> None:
    task = Classification(num_classes=CLASSES)
    batch = batch_of(16)
    loss, scalars = task.loss(Logits(), batch)
    assert loss.requires_grad and scalars["loss"].item() == loss.item()
    assert all(value.shape == () and not value.requires_grad for value in scalars.values())
    assert scalars["top1"].item() == (batch["image"].argmax(1) == batch["label"]).double().mean().item()
    assert task.loss(Logits(), batch_of(16, mixed=True))[1].keys() == {"loss"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_logits_of_half_precision_are_measured_in_float32(dtype: torch.dtype, loss: Any) -> None:
    task = Classification(num_classes=CLASSES, loss=loss)
    half = batch_of(64)
    half["image"] = half["image"].to(dtype)
    wide = half | {"image": half["image"].float()}
    model = Logits().to(dtype)
    got, scalars = task.loss(model, half)
    assert got.dtype == scalars["loss"].dtype == torch.float32
    assert got.item() == loss_of(task, wide)
    assert measured(task, [half]) == measured(task, [wide])


# The device


class Curious(Accuracy):
    def update(self, prediction: Any, batch: Batch) -> None:
        super().update(prediction, batch)
        assert self._loss is not None
        self._loss.item()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("mixed", [False, True])
def test_neither_loss_nor_weight_nor_update_waits_for_the_device(loss: Any, weights: Any, mixed: bool) -> None:
    task = Classification(num_classes=CLASSES, loss=loss, class_weights=weights, label_smoothing=0.1)
    batch, model, metrics = batch_of(8, mixed=mixed), Logits(), task.metrics()
    with NoHostReads():
        task.loss(model, batch)[0].backward()
        task.weight(batch)
        metrics.update(task.predict(model, batch_of(8)), batch_of(8))


def test_an_update_that_reads_is_caught() -> None:
    task = Classification(num_classes=CLASSES)
    with NoHostReads(), pytest.raises(HostRead):
        Curious(CLASSES, loss_function=task.loss_function).update(batch_of(8)["image"], batch_of(8))


# The door


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"class_weights": [1.0, 2.0]}, r"task\.class_weights has 2 weights, and there are 7 classes"),
        ({"class_weights": [1.0] * 6 + [0.0]}, r"task\.class_weights=.* must be numbers above 0"),
        ({"class_weights": [1.0] * 6 + [math.nan]}, r"must be numbers above 0"),
        ({"label_smoothing": 1.0}, r"task\.label_smoothing=1\.0 must be 0 or more and below 1"),
        ({"label_smoothing": -0.1}, r"task\.label_smoothing=-0\.1"),
        ({"label_smoothing": math.nan}, r"task\.label_smoothing=nan"),
        ({"loss": "mse"}, r"task\.loss='mse' must be cross_entropy or bce"),
        ({"class_names": ["a"]}, r"task\.class_names has 1 names, and there are 7 classes"),
        ({"per_class": True}, r"task\.per_class=true needs the names"),
        ({"class_weights": "balanced"}, r"the data set has no counts; give one number per class"),
        ({"class_weights": "balanced", "class_counts": [1] * 6 + [0]}, r"has no sample of some class"),
        ({"num_classes": 0}, r"task\.num_classes=0 must be 1 or more"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Classification(**{"num_classes": CLASSES} | settings)


@pytest.mark.parametrize(
    ("output", "got", "told"),
    [
        (torch.zeros(8, 7), r"\(8, 7\)", "type model.num_classes="),
        ([torch.zeros(8, 10)], "a list", "choose a model"),
        (torch.zeros(8, 10, 4, 4), r"\(8, 10, 4, 4\)", "choose a model that gives one label to an image"),
    ],
)
def test_an_output_that_is_not_logits_of_all_classes_is_named(output: Any, got: str, told: str) -> None:
    task, model = Classification(num_classes=10), lambda image: output
    match = f"the model gives {got} for a batch of 8 images, expected logits \\(8, 10\\); {told}"
    assert task.output_problem(torch.zeros(8, 10, device="meta"), batch_of(8)) == ""
    assert re.match(match, task.output_problem(output, batch_of(8)))
    with pytest.raises(ValueError, match=match):
        task.loss(model, batch_of(8))


def test_the_yaml_takes_its_classes_from_the_data() -> None:
    task = checked("task.per_class=true")["task"]
    assert task["num_classes"] == 10
    assert task["class_names"] == list("0123456789")
