"""Top-1, top-5 and the mean over classes count every sample once, and are told by the names of the classes."""

import math
from typing import Any

import pytest
import torch

from plainloop.tasks.classification import Classification
from tests.tasks.test_classification import CLASSES, LOSSES, WEIGHTS, batch_of, loss_of, measured, part


def test_metrics_by_hand() -> None:
    ranked = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])  # class 0 first, class 6 last
    batch = {"image": ranked.repeat(4, 1), "label": torch.tensor([0, 0, 4, 5])}
    result = measured(Classification(num_classes=CLASSES), [batch])
    losses = [math.log(sum(math.exp(-k) for k in range(7))) + place for place in (0, 0, 4, 5)]
    assert result == {
        "loss": pytest.approx(sum(losses) / 4, rel=1e-6),
        "top1": 0.5,
        "top5": 0.75,
        "macc": (1.0 + 0.0 + 0.0) / 3,  # classes 1, 2, 3 and 6 had no sample
    }


def test_top5_is_there_from_six_classes_on() -> None:
    for num_classes in (2, 5, 6):
        batch = {"image": torch.eye(num_classes), "label": torch.arange(num_classes)}
        result = measured(Classification(num_classes=num_classes), [batch])
        assert ("top5" in result) == (num_classes > 5)
        assert result["top1"] == result["macc"] == 1.0


def test_accuracy_of_each_class_is_told_by_name_when_asked_for() -> None:
    settings: dict[str, Any] = {"num_classes": 3, "class_names": ["cat", "dog", "eel"]}
    batch = {"image": torch.eye(3)[[0, 1, 0]], "label": torch.tensor([0, 1, 1])}
    result = measured(Classification(**settings, per_class=True), [batch])
    assert (result["accuracy/cat"], result["accuracy/dog"]) == (1.0, 0.5)
    assert math.isnan(result["accuracy/eel"])
    assert measured(Classification(**settings), [batch]).keys() == {"loss", "top1", "macc"}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_measured_loss_is_plain_whatever_training_smooths_and_weighs(loss: Any) -> None:
    plain = Classification(num_classes=CLASSES, loss=loss)
    other = Classification(num_classes=CLASSES, loss=loss, label_smoothing=0.1, class_weights=WEIGHTS)
    batch = batch_of(16)
    assert measured(plain, [batch]) == measured(other, [batch])
    assert measured(plain, [batch])["loss"] == pytest.approx(loss_of(plain, batch), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_classes", [3, 7])
def test_the_sums_of_the_samples_give_what_the_running_totals_give(loss: Any, num_classes: int) -> None:
    settings: dict[str, Any] = {"class_names": list("abcdefg")[:num_classes], "per_class": True}
    task = Classification(num_classes=num_classes, loss=loss, **settings)
    batch = batch_of(1000)
    batch = {"image": batch["image"][:, :num_classes], "label": batch["label"] % num_classes}
    metrics, running = task.metrics(), measured(task, [batch])
    sums = metrics.sums(batch["image"], batch)
    assert sums.dtype == torch.float64
    # Only the order of a sum of float64 differs.
    assert metrics.values(sums.sum(0)) == running | {"loss": pytest.approx(running["loss"], rel=1e-14)}
    alone = metrics.values(sums[0])
    assert alone == pytest.approx(measured(task, [part(batch, slice(0, 1))]), nan_ok=True, rel=1e-14)


def test_results_are_probabilities_of_the_classes() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float16)
    softmax, sigmoid = (
        Classification(num_classes=2, loss=loss).results(logits, {})["label"] for loss in ("cross_entropy", "bce")
    )
    torch.testing.assert_close(softmax, torch.tensor([[0.75, 0.25]]), rtol=1e-3, atol=0)  # of float16
    torch.testing.assert_close(sigmoid, torch.tensor([[0.75, 0.5]]), rtol=1e-3, atol=0)


def test_metrics_do_not_depend_on_how_samples_are_cut_into_batches() -> None:
    task, batch = Classification(num_classes=CLASSES), batch_of(1000)
    pieces, whole = [part(batch, slice(i, i + 7)) for i in range(0, 1000, 7)], measured(task, [batch])
    assert measured(task, pieces) == whole
    means = [measured(task, [piece])["top1"] for piece in pieces]
    assert sum(means) / len(means) != pytest.approx(whole["top1"], rel=1e-6)  # the control: a mean of means


def test_a_pass_without_samples_is_not_a_number() -> None:
    assert all(math.isnan(value) for value in measured(Classification(num_classes=CLASSES), []).values())
