"""What several ranks compute together is what one process would have computed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from plainloop.contracts import IGNORE, Batch, Scalars, Task
from plainloop.data.loaders import Loader, loaders
from plainloop.data.loading import sampler
from plainloop.data.loading.sampler import Shard
from plainloop.data.memory import InMemory
from plainloop.distributed import collectives
from plainloop.loop import trainer as loop
from plainloop.loop.state import TrainState, means
from plainloop.run import backend
from plainloop.tasks.classification import Classification
from plainloop.tasks.detection import Detection
from plainloop.tasks.segmentation import Segmentation
from tests.harness.ranks import on_ranks
from tests.harness.runs import by_task
from tests.harness.toys import TOYS, as_they_are, toy_state, toy_trainer

CLASSES = 7
SIZES = range(1, 18)
Rows = Callable[[int, Shard], list[np.ndarray[Any, Any]]]


def exact_rows(size: int, shard: Shard) -> list[np.ndarray[Any, Any]]:
    return list(sampler.eval_rows(size, rank_batch=2, shard=shard))


def padded_rows(size: int, shard: Shard) -> list[np.ndarray[Any, Any]]:
    """What torch's DistributedSampler does: the first samples again until all ranks have equally many."""
    each = math.ceil(size / shard.world_size)
    numbers = np.resize(np.arange(size), each * shard.world_size)
    return [numbers[shard.rank :: shard.world_size]]


def evaluations(rows: Rows, entry: str = "label") -> list[dict[str, float]]:
    """Of sets of 1 to 17 samples, by a model that is a table; of masks, two samples have no labelled pixel."""
    generator, shape = torch.Generator().manual_seed(3), {"label": (), "mask": (5, 4)}[entry]
    logits = torch.randn(max(SIZES), CLASSES, *shape, generator=generator)
    truth = torch.randint(CLASSES, (max(SIZES), *shape), generator=generator)
    if entry == "mask":
        truth[torch.rand(truth.shape, generator=generator) < 0.3] = IGNORE
        truth[1:3] = IGNORE
    found = []
    for size in SIZES:
        kind = {"label": Classification, "mask": Segmentation}[entry]
        metrics = kind(num_classes=CLASSES).metrics()
        for row in rows(size, Shard.here()):
            index = torch.from_numpy(row)
            if len(index):
                metrics.update(logits[index], {entry: truth[index]})
        found.append(metrics.compute())
    return found


def different(mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> list[tuple[int, str]]:
    return [
        (size, key)
        for size, one, other in zip(SIZES, mine, theirs, strict=True)
        for key in one
        if not math.isclose(one[key], other[key], rel_tol=1e-12)
        and not (math.isnan(one[key]) and math.isnan(other[key]))
    ]


@pytest.mark.parametrize(("entry", "world_size"), [("label", 2), ("label", 3), ("label", 4), ("mask", 2), ("mask", 3)])
def test_every_sample_counts_once(tmp_path: Path, entry: str, world_size: int) -> None:
    alone = evaluations(exact_rows, entry)
    for found in on_ranks(tmp_path / "meeting", world_size, lambda: evaluations(exact_rows, entry)):
        assert different(alone, found) == []


@pytest.mark.parametrize("entry", ["label", "mask"])
def test_padding_would_be_noticed(tmp_path: Path, entry: str) -> None:
    alone = evaluations(exact_rows, entry)
    found = on_ranks(tmp_path / "meeting", 2, lambda: evaluations(padded_rows, entry))[0]
    assert {size for size, _ in different(alone, found)} >= {5, 9, 17}


def trainings(world_size: int) -> list[tuple[int, int, int, dict[str, float]]]:
    """(samples, batch size, steps made, last evaluation) of a whole training of every set of 1 to 17 samples in every
    batch size that ranks can share. The rate is 0: weights, and so what is measured, stay what they were."""
    generator, found = torch.Generator().manual_seed(5), []
    for size in SIZES:
        image = torch.randint(256, (size, 1, 4, 4), dtype=torch.uint8, generator=generator)
        label = torch.randint(3, (size,), generator=generator)
        for batch_size in range(world_size, size + 1, world_size):
            steps = 2 * (size // batch_size)
            data = InMemory(
                {split: {"image": image, "label": label} for split in ("train", "val")},
                loaders=loaders(Loader(batch_size, num_workers=0)),
                device="cpu",
                train_eval_samples=5,
            )
            torch.manual_seed(size)
            model, told = Linear(), {"steps": steps, "steps_per_epoch": size // batch_size}
            state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.0), GradScaler("cpu", enabled=False))
            trainer = toy_trainer(data=data, base_lr=0.0, log_every=steps, eval_every=steps, **told)
            trainer.fit(state, wrap(model))
            rows = trainer.recorder.rows
            seen = {
                key: value for key, value in rows[steps].items() if key in ("val/top1", "val/top5", "train_eval/top1")
            }
            found.append((size, batch_size, state.step, seen))
    return found


@pytest.mark.parametrize(
    "world_size", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_sets_of_any_size_are_trained_and_counted_by_any_number_of_ranks(tmp_path: Path, world_size: int) -> None:
    alone = {(size, batch_size): rest for size, batch_size, *rest in trainings(1)}
    for found in on_ranks(tmp_path / "meeting", world_size, lambda: trainings(world_size)):
        assert len(found) == sum(size // world_size for size in SIZES)
        for size, batch_size, *rest in found:
            assert rest == alone[size, batch_size], (size, batch_size)


def wrap(model: nn.Module, **changed: bool) -> nn.Module:
    given = dict.fromkeys(("find_unused_parameters", "static_graph", "compile"), False) | changed
    return backend.wrap(model, torch.device("cpu"), bucket_cap_mb=None, **given)


class Linear(nn.Module):
    """Without BatchNorm, whose statistics are of a rank's rows, and dropout, whose draws differ by rank."""

    def __init__(self, output: tuple[int, ...] = (3,), read: Callable[..., Any] = as_they_are) -> None:
        super().__init__()
        self.output, self.read = output, read
        self.head = nn.Linear(16, math.prod(output)).double()

    def forward(self, image: Tensor, *objects: Batch) -> Any:
        return self.read(self.head(image.flatten(1).double()).unflatten(1, self.output), *objects)


class MeanOverObjects(Detection):
    """A task that divides by the objects of its part of the batch, and says that it counts images."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Scalars]:
        loss, scalars = super().loss(model, batch)
        share = len(batch["box_valid"]) / batch["box_valid"].sum()
        return loss * share, {name: value * share for name, value in scalars.items()}


# With class weights the ranks' parts of a batch weigh differently. Images with boxes all weigh the same.
WEIGHTED: dict[str, Callable[[], Task]] = {
    "classification": lambda: Classification(num_classes=3, class_weights=(0.1, 1.0, 10.0)),
    "segmentation": lambda: Segmentation(num_classes=3, class_weights=(0.1, 1.0, 10.0)),
    "detection": lambda: Detection(num_classes=3),
}


def after_one_step(task: str, accumulate: int) -> tuple[float, Tensor]:
    """The loss that is logged and the weights after a step of the loop."""
    torch.manual_seed(0)
    model = Linear(TOYS[task].output, TOYS[task].read)
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=1.0), GradScaler("cpu", enabled=False))
    trainer = toy_trainer(task=WEIGHTED[task](), accumulate=accumulate)
    batch = next(trainer.data.train_batches(0, 1, seed=1))
    trainer.update(wrap(model), state, trainer.prepare(batch))
    state.window.read()
    rows = [row for rows in collectives.gather(state.window.rows) for row in rows]
    return means(rows)["loss"], model.head.weight.detach()


def agree(mine: tuple[float, Tensor], theirs: tuple[float, Tensor]) -> bool:
    # Shares are float32, 2**-24 relative each, and sums are made in another order.
    return math.isclose(mine[0], theirs[0], rel_tol=1e-6) and torch.allclose(mine[1], theirs[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (2, 2), (4, 2), (4, 1)])
@by_task
def test_loss_and_update_are_those_of_one_process(tmp_path: Path, task: str, world_size: int, accumulate: int) -> None:
    alone = after_one_step(task, 1)
    for found in on_ranks(tmp_path / "meeting", world_size, lambda: after_one_step(task, accumulate)):
        assert agree(alone, found)


def equal_shares(task: Task, parts: Sequence[Batch]) -> list[float]:
    return [1 / len(parts) / collectives.world_size()] * len(parts)


@by_task
def test_shares_that_do_not_fit_the_loss_would_be_noticed(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if task == "detection":
        monkeypatch.setitem(WEIGHTED, task, lambda: MeanOverObjects(num_classes=3))
    alone = after_one_step(task, 1)
    monkeypatch.setattr(loop, "shares_of", equal_shares)
    assert not agree(alone, on_ranks(tmp_path / "meeting", 2, lambda: after_one_step(task, 1))[0])


def reductions(accumulate: int) -> int:
    """How many buckets of gradients a step of the loop sends."""
    sent = 0

    def counting(group: None, bucket: Any) -> Any:
        nonlocal sent
        sent += 1
        return allreduce_hook(group, bucket)

    counting.__annotations__.clear()  # DDP wants classes there, not their names
    state, trainer = toy_state(), toy_trainer(accumulate=accumulate)
    model = wrap(state.model)
    model.register_comm_hook(None, counting)
    batch = next(trainer.data.train_batches(0, 1, seed=0))
    trainer.update(model, state, trainer.normalize(trainer.prepare(batch)))
    return sent


def test_gradients_travel_once_a_step_however_many_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_ranks(tmp_path / "whole", 2, lambda: reductions(1)) == [1, 1]
    assert on_ranks(tmp_path / "parts", 2, lambda: reductions(2)) == [1, 1]
    monkeypatch.setattr(loop, "no_sync", lambda model: contextlib.nullcontext())
    assert on_ranks(tmp_path / "without no_sync", 2, lambda: reductions(2)) == [2, 2]
