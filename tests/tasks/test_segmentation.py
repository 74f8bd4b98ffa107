"""Losses are the published ones over labelled pixels; settings and models that cannot be are refused."""

import math
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional as F

from plainloop.contracts import IGNORE, Batch
from plainloop.tasks.segmentation import Segmentation
from tests.harness.tensors import HostRead, NoHostReads
from tests.tasks.masks import WEIGHTS, Logits, batch_of, loss_of, rows, small, task_of

ALL = {"cross_entropy": 1.0, "dice": 0.5, "lovasz": 0.25, "focal": 2.0, "ohem": 0.1}
THEIRS = {
    "dice": smp.losses.DiceLoss("multiclass", ignore_index=IGNORE),
    "lovasz": smp.losses.LovaszLoss("multiclass", ignore_index=IGNORE),
    "focal": smp.losses.FocalLoss("multiclass", ignore_index=IGNORE),
}


# The losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(weights: Any, smoothing: float) -> None:
    batch = batch_of()
    tensor = None if weights is None else torch.tensor(weights)
    theirs = F.cross_entropy(batch["image"], batch["mask"], tensor, ignore_index=IGNORE, label_smoothing=smoothing)
    ours = loss_of(task_of(class_weights=weights, label_smoothing=smoothing), batch)
    assert ours == pytest.approx(theirs.item(), rel=1e-6)  # sums in another order


@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("name", THEIRS)
def test_a_loss_and_its_gradient_are_the_librarys(name: str, ignored: float) -> None:
    batch = batch_of(ignored=ignored)
    ours, theirs = (batch["image"].clone().requires_grad_() for _ in range(2))
    loss = task_of(losses={name: 1.0}).loss(Logits(), batch | {"image": ours})[0]
    expected = THEIRS[name](theirs, batch["mask"])
    loss.backward()
    expected.backward()
    # Sums of up to 960 float32 numbers in another order.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "kind"), [("dice", smp.losses.DiceLoss), ("focal", smp.losses.FocalLoss)])
def test_class_weights_are_the_librarys(name: str, kind: Any) -> None:
    batch = batch_of()
    theirs = kind("multiclass", ignore_index=IGNORE, class_weights=WEIGHTS)(batch["image"], batch["mask"])
    assert loss_of(task_of(losses={name: 1.0}, class_weights=WEIGHTS), batch) == pytest.approx(theirs.item(), rel=1e-5)


def of_probabilities(p: list[float]) -> Batch:
    """A row of pixels of class 0, to which the model gives these probabilities; the last one is IGNORE."""
    row = torch.tensor([*p, 1e-3])
    mask = torch.zeros(1, 1, len(row), dtype=torch.long)
    mask[..., -1] = IGNORE
    return {"image": torch.stack([row, 1 - row]).log()[None, :, None], "mask": mask}


def test_ohem_by_hand() -> None:
    batch = of_probabilities([0.9, 0.5, 0.6, 0.95])
    hard = {"num_classes": 2, "losses": {"ohem": 1.0}, "ohem_threshold": 0.7, "ohem_min_kept": 0.0}
    assert loss_of(Segmentation(**hard), batch) == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2, rel=1e-5)
    more = hard | {"ohem_min_kept": 0.75}  # three of the four labelled pixels
    three = -(math.log(0.5) + math.log(0.6) + math.log(0.9)) / 3
    assert loss_of(Segmentation(**more), batch) == pytest.approx(three, rel=1e-5)
    none_hard = of_probabilities([0.9, 0.95])
    assert loss_of(Segmentation(**hard | {"ohem_threshold": 0.8}), none_hard) == pytest.approx(-math.log(0.9), rel=1e-5)


def test_the_loss_is_the_weighted_sum_and_each_part_is_told() -> None:
    batch = batch_of()
    loss, scalars = task_of(losses=ALL).loss(Logits(), batch)
    parts = {name: loss_of(task_of(losses={name: 1.0}), batch) for name in ALL}
    assert loss.item() == pytest.approx(sum(ALL[name] * part for name, part in parts.items()), rel=1e-6)
    assert {name: scalars[name].item() for name in ALL} == pytest.approx(parts, rel=1e-6)
    assert task_of().loss(Logits(), batch)[1].keys() == {"loss", "pixel_accuracy"}


def test_auxiliary_heads_count_by_their_weights_and_in_training_alone() -> None:
    batch, model = batch_of(), Logits(heads=2)
    task = task_of(aux_weights=[0.4, 0.2])
    coarse = F.interpolate(batch["image"][..., ::2, ::2], (6, 10), mode="bilinear")
    head = F.cross_entropy(coarse, batch["mask"], ignore_index=IGNORE).item()
    loss, scalars = task.loss(model, batch)
    assert loss.item() == pytest.approx(loss_of(task_of(), batch) + 0.6 * head, rel=1e-5)
    assert scalars["aux"].item() == pytest.approx(0.6 * head, rel=1e-5)
    model.eval()
    assert torch.equal(task.predict(model, batch), batch["image"])


def test_the_loss_is_taken_at_the_size_of_the_image_or_of_the_logits() -> None:
    batch = small(batch_of(ignored=0.0))
    enlarged = F.interpolate(batch["image"], (6, 10), mode="bilinear")
    assert loss_of(task_of(), batch) == pytest.approx(F.cross_entropy(enlarged, batch["mask"]).item(), rel=1e-6)
    reduced = F.cross_entropy(batch["image"], batch["mask"][:, 1::2, 1::2])
    assert loss_of(task_of(loss_at="logits"), batch) == pytest.approx(reduced.item(), rel=1e-6)


@pytest.mark.parametrize("loss_at", ["image", "logits"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_accumulation_gives_the_loss_and_gradient_of_the_whole_batch(weights: Any, loss_at: Any) -> None:
    task = task_of(class_weights=weights, loss_at=loss_at, label_smoothing=0.1)
    batch = small(batch_of(8))
    batch["mask"][0], batch["mask"][1, :3] = IGNORE, IGNORE
    parts = [rows(batch, part) for part in (slice(0, 1), slice(1, 2), slice(2, 8))]

    def summed(shares: list[float]) -> tuple[float, float]:
        model, total = Logits(), 0.0
        for part, share in zip(parts, shares):
            loss = task.loss(model, part)[0] * share
            loss.backward()
            total += loss.item()
        assert model.scale.grad is not None
        return total, model.scale.grad.item()

    model = Logits()
    whole = task.loss(model, batch)[0]
    whole.backward()
    assert model.scale.grad is not None
    expected = (whole.item(), model.scale.grad.item())
    total = float(task.weight(batch))
    # Sums of float32 numbers in another order.
    assert summed([float(task.weight(part)) / total for part in parts]) == pytest.approx(expected, rel=1e-5)
    assert summed([1 / 8, 1 / 8, 6 / 8]) != pytest.approx(expected, rel=1e-3)  # the control: images do not count alike


@pytest.mark.parametrize("loss_at", ["image", "logits"])
def test_images_without_a_labelled_pixel_give_a_loss_of_zero_and_no_gradient(loss_at: Any) -> None:
    task, batch, model = task_of(losses=ALL, loss_at=loss_at), small(batch_of(ignored=1.0)), Logits()
    loss, scalars = task.loss(model, batch)
    loss.backward()
    assert model.scale.grad is not None
    assert (loss.item(), model.scale.grad.item(), task.weight(batch).item()) == (0.0, 0.0, 0.0)
    assert all(math.isfinite(value.item()) for value in scalars.values())


# The device


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss_at", ["image", "logits"])
def test_neither_loss_nor_weight_nor_update_waits_for_the_device(weights: Any, loss_at: Any) -> None:
    task = task_of(losses=ALL, class_weights=weights, loss_at=loss_at, aux_weights=[0.4], tta_flip=True, window=5)
    batch, model, metrics = small(batch_of()), Logits(heads=1), task.metrics()
    with NoHostReads():
        task.loss(model, batch)[0].backward()
        task.weight(batch)
        metrics.update(task.predict(model, batch), batch)


def test_the_librarys_lovasz_is_caught_to_wait() -> None:
    batch = batch_of()
    with NoHostReads(), pytest.raises(HostRead):
        THEIRS["lovasz"](batch["image"], batch["mask"])


# The door


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"losses": {"iou": 1.0}}, r"task\.losses has no iou; it has cross_entropy, dice, lovasz, focal, ohem"),
        ({"losses": {"dice": 0.0}}, r"task\.losses=.* one of them above 0"),
        ({"losses": {"dice": -1.0}}, r"task\.losses\.dice=-1\.0 must be 0 or more"),
        ({"class_weights": [1.0]}, r"task\.class_weights has 1 weights, and there are 4 classes"),
        ({"ohem_threshold": 1.5}, r"task\.ohem_threshold=1\.5 must lie between 0 and 1"),
        ({"focal_gamma": -1}, r"task\.focal_gamma=-1 must be 0 or more"),
        ({"tta_scales": []}, r"task\.tta_scales=\[\] must be factors above 0"),
        ({"window": 8, "window_stride": 9}, r"task\.window_stride=9 must lie between 1 and task\.window=8"),
        ({"window_stride": 9}, r"task\.window_stride=9 must lie between 1 and task\.window=None"),
        ({"per_class": True}, r"task\.per_class=true needs 4 names"),
        ({"num_classes": 256}, r"task\.num_classes=256 must be 2 to 255"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        task_of(**settings)


@pytest.mark.parametrize(
    ("model", "settings", "match"),
    [
        (lambda image: image.mean((2, 3)), {}, r"the model gives \(4, 4\) for a batch of 4 images, expected logits"),
        (lambda image: image[:, :2], {}, r"gives \(4, 2, 6, 10\) .*, expected logits \(4, 4, height, width\)"),
        (Logits(heads=2), {}, r"has 2 auxiliary heads, .*; type task\.aux_weights=\[1,1\]"),
        (Logits(), {"aux_weights": [0.4]}, r"has no auxiliary heads; type task\.aux_weights=\[\]"),
    ],
)
def test_a_model_that_does_not_fit_is_named(model: Any, settings: dict[str, Any], match: str) -> None:
    if not isinstance(model, nn.Module):
        model.training = True
    with pytest.raises(ValueError, match=match):
        task_of(**settings).loss(model, batch_of())
