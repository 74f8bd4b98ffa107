"""With trainer.deterministic=true no loss or metric asks for an operation that CUDA has in no deterministic form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plainloop.tasks.segmentation import LOSSES, Segmentation
from tests.harness.runs import train
from tests.harness.tensors import NotDeterministic, OnlyDeterministic


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_metrics_of_masks_are_deterministic_on_cuda(loss: str, weights: list[float] | None) -> None:
    task = Segmentation(num_classes=3, losses={loss: 1.0}, class_weights=weights)
    model, metrics = nn.Conv2d(2, 3, 1), task.metrics()
    batch = {"image": torch.rand(4, 2, 6, 6), "mask": torch.arange(4 * 36).view(4, 6, 6) % 3}
    with OnlyDeterministic():
        task.loss(model, batch)[0].backward()
        metrics.update(task.predict(model.eval(), batch), batch)
    assert model.weight.grad is not None


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.nn.functional.cross_entropy(x, torch.zeros(2, 4, 4, dtype=torch.long)),
        lambda x: x.flatten().cumsum(0),
    ],
)
def test_operations_that_cuda_refuses_are_found(operation: Any) -> None:
    x: Tensor = torch.zeros(2, 3, 4, 4)
    with OnlyDeterministic(), pytest.raises(NotDeterministic):
        operation(x)


@pytest.mark.gpu
@pytest.mark.parametrize("loss", LOSSES)
def test_cuda_trains_masks_deterministically(loss: str, tmp_path: Path) -> None:
    typed = [f"task.losses.{name}={float(name == loss)}" for name in LOSSES]
    run = ("task=segmentation", "data=digit_scenes", "model=tiny_seg", "trainer.duration=3st", "trainer.devices=1")
    ended = train(tmp_path, *run, "device=cuda", "trainer.deterministic=true", *typed)
    assert ended.code == 0, ended.err
