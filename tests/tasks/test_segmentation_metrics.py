"""Every pixel is counted once; predictions have the size of the mask, from several views and windows, too."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from plainloop.contracts import IGNORE, Batch
from plainloop.tasks.segmentation import Segmentation
from tests.tasks.masks import CLASSES, WEIGHTS, batch_of, rows, task_of


def measured(task: Segmentation, batches: list[Batch]) -> dict[str, float]:
    metrics = task.metrics()
    for batch in batches:
        metrics.update(batch["image"], batch)
    return metrics.compute()


@pytest.mark.parametrize("seed", range(5))
def test_iou_and_accuracies_are_torchmetrics(seed: int) -> None:
    batches = [batch_of(seed=seed), batch_of(3, seed=seed + 10, size=(9, 5))]
    batches[0]["mask"][batches[0]["mask"] == seed % CLASSES] = IGNORE  # in some seeds a class is rare or absent
    settings: dict[str, Any] = {"num_classes": CLASSES, "ignore_index": IGNORE}
    iou, ious = (MulticlassJaccardIndex(**settings, average=average) for average in ("macro", "none"))
    pixels, recall = (MulticlassAccuracy(**settings, average=average) for average in ("micro", "macro"))
    for batch in batches:
        for metric in (iou, ious, pixels, recall):
            metric.update(batch["image"], batch["mask"])
    result = measured(task_of(per_class=True, class_names=list("abcd")), batches)
    assert result["miou"] == pytest.approx(iou.compute().item(), rel=1e-6)  # theirs are float32
    assert [result[f"iou/{name}"] for name in "abcd"] == pytest.approx(ious.compute().tolist(), rel=1e-6)
    assert result["pixel_accuracy"] == pytest.approx(pixels.compute().item(), rel=1e-6)
    assert result["macc"] == pytest.approx(recall.compute().item(), rel=1e-6)


def test_metrics_by_hand_with_a_class_that_is_nowhere_and_one_that_is_only_predicted() -> None:
    """Truth 0 0 1 -, predicted 0 1 1 2: class 3 is nowhere, class 2 only where no class is."""
    predicted = torch.tensor([0, 1, 1, 2])
    batch = {
        "image": 10.0 * F.one_hot(predicted, CLASSES).float().T[None, :, None],
        "mask": torch.tensor([[[0, 0, 1, IGNORE]]]),
    }
    result = measured(task_of(per_class=True, class_names=list("abcd")), [batch])
    assert (result["iou/a"], result["iou/b"]) == (0.5, 0.5)
    assert math.isnan(result["iou/c"]) and math.isnan(result["iou/d"])
    assert (result["miou"], result["macc"], result["pixel_accuracy"]) == (0.5, 0.75, pytest.approx(2 / 3))
    assert result["loss"] == pytest.approx(F.cross_entropy(batch["image"], batch["mask"], ignore_index=IGNORE).item())
    seen = batch | {"mask": torch.tensor([[[0, 0, 1, 1]]])}
    result = measured(task_of(), [seen])
    assert result["miou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)  # class 2 is predicted where class 1 is


def test_metrics_do_not_depend_on_how_samples_are_cut_into_batches() -> None:
    task, batch = task_of(), batch_of(50)
    pieces, whole = [rows(batch, slice(i, i + 7)) for i in range(0, 50, 7)], measured(task, [batch])
    assert measured(task, pieces) == pytest.approx(whole, rel=1e-12)  # the loss is a sum of float64
    means = [measured(task, [piece])["miou"] for piece in pieces]
    assert sum(means) / len(means) != pytest.approx(whole["miou"], rel=1e-4)  # the control: a mean of means


def test_the_sums_of_the_samples_give_what_the_running_totals_give() -> None:
    task = task_of(per_class=True, class_names=list("abcd"))
    batch = batch_of(20)
    batch["mask"][3] = IGNORE
    metrics, running = task.metrics(), measured(task, [batch])
    sums = metrics.sums(batch["image"], batch)
    assert sums.dtype == torch.float64
    # Only the order of a sum of float64 differs.
    assert metrics.values(sums.sum(0)) == running | {"loss": pytest.approx(running["loss"], rel=1e-14)}
    alone = metrics.values(sums[5])
    assert alone == pytest.approx(measured(task, [rows(batch, slice(5, 6))]), nan_ok=True, rel=1e-14)
    assert all(math.isnan(value) for value in metrics.values(sums[3]).values())


def test_results_are_the_classes_of_the_pixels() -> None:
    batch = batch_of()
    mask = task_of().results(batch["image"], {"image": batch["image"]})["mask"]
    assert torch.equal(mask, batch["image"].argmax(1)) and mask.dtype == torch.int64


def test_the_measured_loss_is_plain_whatever_training_smooths_and_weighs() -> None:
    other = task_of(losses={"dice": 1.0}, label_smoothing=0.1, class_weights=WEIGHTS)
    assert measured(other, [batch_of()]) == measured(task_of(), [batch_of()])


def test_a_pass_without_a_labelled_pixel_is_not_a_number() -> None:
    for batches in ([], [batch_of(ignored=1.0)]):
        assert all(math.isnan(value) for value in measured(task_of(), batches).values())


# The prediction


class Blurred(nn.Module):
    """Logits that depend on the neighbours: what a window sees changes them at its edges only."""

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, 3, stride=1, padding=1)


def test_logits_are_enlarged_to_the_mask_else_to_the_image() -> None:
    batch = batch_of()
    task, half = task_of(), nn.AvgPool2d(2)
    assert task.predict(half, batch).shape == batch["image"].shape
    assert task.predict(half, {"image": batch["image"]}).shape == batch["image"].shape
    larger = batch | {"mask": torch.zeros(4, 12, 20, dtype=torch.long)}
    assert task.predict(half, larger).shape == (4, CLASSES, 12, 20)


def test_several_views_are_averaged_as_probabilities() -> None:
    batch = batch_of()
    image = batch["image"]
    model = nn.Conv2d(CLASSES, CLASSES, (1, 3), padding=(0, 1))  # looks left and right in different ways
    got = task_of(tta_flip=True).predict(model, batch)
    both = (model(image).softmax(1) + model(image.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(got.exp(), both)
    double = F.interpolate(image, (12, 20), mode="bilinear")
    scaled = F.interpolate(model(double), (6, 10), mode="bilinear").softmax(1)
    got = task_of(tta_scales=[1.0, 2.0]).predict(model, batch)
    torch.testing.assert_close(got.exp(), (model(image).softmax(1) + scaled) / 2)


def test_windows_cover_each_place_and_agree_where_they_overlap() -> None:
    batch = batch_of(size=(11, 16))
    whole = task_of().predict(nn.Identity(), batch)
    assert torch.allclose(task_of(window=5).predict(nn.Identity(), batch), whole)  # sums of equal numbers
    inner = (..., slice(1, 4), slice(1, 4))  # where the first window is the only one and sees all neighbours
    blurred, parts = (task_of(**kind).predict(Blurred(), batch) for kind in ({}, {"window": 6, "window_stride": 5}))
    assert torch.equal(parts[inner], blurred[inner])
    assert not torch.equal(parts, blurred)


def test_an_image_within_the_window_is_seen_as_a_whole() -> None:
    batch = batch_of()
    assert torch.equal(task_of(window=10).predict(Blurred(), batch), task_of().predict(Blurred(), batch))
