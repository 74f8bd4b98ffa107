"""What an evaluation keeps of its samples: right, the same for any batches and ranks, and without any effect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plainloop.contracts import IGNORE
from plainloop.distributed import collectives
from plainloop.loop.evaluation.collect import Collected, Collector
from plainloop.loop.evaluation.worst import MOST, SIDE
from plainloop.tasks.classification import Accuracy, Classification
from plainloop.tasks.segmentation import Segmentation
from tests.harness.ranks import on_ranks
from tests.harness.tensors import HostWait, NoHostWaits, equal
from tests.harness.toys import CLASSES, Memory, toy_state, toy_trainer


class Bare:
    """A task that tells nothing of single samples."""

    def metrics(self) -> Any:
        return object()


class Summed(Bare):
    """A task of which only sums are known."""

    def metrics(self) -> Any:
        class Metrics:
            def sums(self, prediction: Tensor, batch: Any) -> Tensor:
                return torch.stack([prediction.double(), torch.ones(len(prediction)).double()], dim=1)

            def values(self, totals: Tensor) -> dict[str, float]:
                return {"mae": float(totals[0] / totals[1])}

        return Metrics()


class Drawn(Summed):
    """It shows samples of its own choice, in pictures of its own."""

    def pictures(self, prediction: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return prediction.abs() - 1, batch["image"] / 255 / 2


def logits_and_labels(number: int, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (number, 4), generator=generator).float()  # few values, so that many are equal
    image = torch.randint(0, 256, (number, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return {"logits": logits, "label": torch.arange(number) % 4, "index": torch.arange(number), "image": image}


def masks(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 3, (number, 6, 5), generator=generator)
    mask[0] = IGNORE
    mask[1, 0] = IGNORE
    logits = torch.randn(number, 3, 6, 5, generator=generator)
    image = torch.randint(0, 256, (number, 3, 6, 5), generator=generator, dtype=torch.uint8)
    return {"logits": logits, "mask": mask, "index": torch.arange(number), "image": image}


def collect(task: Any, samples: dict[str, Tensor], order: Tensor | None = None, size: int = 7) -> Collected:
    collector = Collector(task)
    for part in (torch.arange(len(samples["index"])) if order is None else order).split(size):
        batch = {name: tensor[part] for name, tensor in samples.items()}
        collector.add(batch.pop("logits"), batch, batch["image"])
    return collector.collected()


def plain(collected: Collected) -> dict[str, Any]:
    """NaN is not equal to itself."""
    return {**vars(collected), "rows": collected.rows.nan_to_num(nan=-7)}


CASES = {
    "labels": (Classification(num_classes=4), logits_and_labels(61)),
    "masks": (Segmentation(num_classes=3), masks(31)),
    "sums": (Summed(), logits_and_labels(20) | {"logits": torch.linspace(-2, 2, 20)}),
    "own pictures": (Drawn(), logits_and_labels(20) | {"logits": torch.linspace(-2, 2, 20)}),
}


@pytest.mark.parametrize("case", CASES)
def test_any_batches_in_any_order_give_the_same(case: str) -> None:
    task, samples = CASES[case]
    number = len(samples["index"])
    shuffled = torch.randperm(number, generator=torch.Generator().manual_seed(3))
    whole, parts = collect(task, samples, size=number), collect(task, samples, shuffled, size=3)
    assert equal(plain(whole), plain(parts))
    assert whole.rows[:, 0].tolist() == list(range(number))


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_ranks_gives_the_same(case: str, tmp_path: Path) -> None:
    task, samples = CASES[case]
    samples = {name: tensor[:20] for name, tensor in samples.items()}

    def act() -> dict[str, Any]:
        mine = torch.arange(20)[collectives.rank() :: 2] if collectives.rank() < 2 else torch.arange(0)
        return plain(collect(task, samples, mine))

    alone = plain(collect(task, samples))
    for found in on_ranks(tmp_path / "meeting", 3, act):  # the last of them has no sample at all
        assert equal(found, alone)


def test_the_most_confidently_wrong_come_first_and_of_equal_ones_the_first() -> None:
    task, samples = CASES["labels"]
    probabilities = samples["logits"].softmax(1)
    confidence, predicted = probabilities.max(1)
    wrong = [i for i in range(61) if predicted[i] != samples["label"][i]]
    first = sorted(wrong, key=lambda i: (-float(confidence[i]), i))[:MOST]
    worst = collect(task, samples).worst
    assert worst["index"].tolist() == first
    assert torch.equal(worst["image"], samples["image"][first])
    assert torch.equal(worst["predicted_label"], probabilities[first])


def test_a_model_that_is_always_right_has_no_worst_images() -> None:
    samples = logits_and_labels(9)
    right = samples | {"logits": torch.eye(4)[samples["label"]] * 9}
    assert collect(Classification(num_classes=4), right).worst == {}


def test_a_row_has_label_prediction_confidence_and_loss() -> None:
    logits = torch.tensor([[0.0, math.log(3), 0, 0]])
    samples = logits_and_labels(1) | {"logits": logits, "label": torch.tensor([2])}
    found = collect(Classification(num_classes=4), samples)
    assert found.columns == ("label", "prediction", "confidence", "loss")
    assert found.rows[0].tolist() == pytest.approx([0, 2, 1, 0.5, math.log(6)], rel=1e-6)


def test_the_iou_of_an_image_is_the_mean_over_the_classes_that_occur() -> None:
    mask = torch.tensor([[[0, 0, 0, 1, 1, IGNORE]]])
    predicted = torch.tensor([[[0, 0, 1, 1, 1, 2]]])
    samples = {"logits": torch.eye(3)[predicted].permute(0, 3, 1, 2), "mask": mask, "index": torch.tensor([5])}
    found = collect(Segmentation(num_classes=3), samples | {"image": torch.zeros(1, 3, 1, 6, dtype=torch.uint8)})
    assert found.rows[0].tolist() == [5, (2 / 3 + 2 / 3) / 2, 4 / 5]
    assert found.pixels is not None
    assert found.pixels[:3].tolist() == [[2, 3, 2], [2, 2, 3], [0, 0, 0]]


@pytest.mark.parametrize("case", ["labels", "masks"])
def test_numbers_that_are_no_class_end_no_evaluation(case: str) -> None:
    """A task of somebody's own may leave such samples or pixels out by itself."""
    task, samples = CASES[case]
    name = case.removesuffix("s")
    odd = samples[name].clone()
    odd[-1], odd[-2] = -1, 300
    assert len(collect(task, samples | {name: odd}).rows) == len(odd)


def test_sums_alone_give_the_metrics_of_each_sample() -> None:
    task, samples = CASES["sums"]
    found = collect(task, samples)
    assert found.columns == ("mae",)
    assert found.rows[:, 1].tolist() == samples["logits"].tolist()


def test_a_task_shows_pictures_of_its_own() -> None:
    task, samples = CASES["own pictures"]
    worst = collect(task, samples).worst
    assert worst["index"].tolist() == [0, 19, 1, 18, 2, 17, 3, 16, 4, 15]
    assert worst.keys() == {"index", "image", "score", "size"}
    assert torch.equal(worst["image"][0], (samples["image"][0].float() / 2).round().byte())


def test_a_task_that_tells_nothing_has_nothing() -> None:
    found = collect(Bare(), logits_and_labels(5))
    assert (found.columns, found.rows.tolist(), found.pixels, found.worst) == ((), [], None, {})


def test_images_of_different_sizes_are_kept_small_and_side_by_side() -> None:
    collector = Collector(Segmentation(num_classes=3))
    for index, (height, width) in enumerate([(2 * SIDE, SIDE), (10, 20), (SIDE // 2, SIDE)]):
        mask = torch.ones(1, height, width, dtype=torch.int64)
        image = torch.full((1, 3, height, width), 100 + index, dtype=torch.uint8)
        batch = {"mask": mask, "index": torch.tensor([index])}
        collector.add(torch.zeros(1, 3, height, width), batch, image)
    worst = collector.collected().worst
    assert worst["size"].tolist() == [[SIDE, SIDE // 2], [10, 20], [SIDE // 2, SIDE]]
    for row, (height, width) in enumerate(worst["size"].tolist()):
        assert (worst["image"][row, :, :height, :width] == 100 + row).all()
        assert (worst["mask"][row, :height, :width] == 1).all()
        assert (worst["predicted_mask"][row, :height, :width] == 0).all()


@pytest.mark.parametrize("case", ["labels", "masks"])
def test_collecting_never_waits_for_the_device(case: str) -> None:
    """On the meta device no value can be read at all."""
    task, samples = CASES[case]
    collector = Collector(task)
    batch = {name: tensor.to("meta") for name, tensor in samples.items()}
    logits, image = batch.pop("logits"), batch["image"]
    with NoHostWaits():
        collector.add(logits, batch, image)
        collector.add(logits, batch, image)
    with pytest.raises(HostWait), NoHostWaits():  # control
        collector.add(logits, batch | {"index": torch.arange(len(image)).to("meta")}, image)


class Mute(Classification):
    """hasattr finds no results, and no sums."""

    results = property()

    def metrics(self) -> Any:
        class Totals(Accuracy):
            sums = property()

        return Totals(self.num_classes, loss_function=self.loss_function)


def test_collecting_changes_neither_metrics_nor_weights_nor_draws() -> None:
    ends, rows = [], []
    for task in (Classification(num_classes=CLASSES), Mute(num_classes=CLASSES)):
        state, recorder = toy_state(), Memory()
        toy_trainer(recorder, task=task).fit(state, state.model)
        ends.append([state.state_dict(), torch.get_rng_state()])
        rows.append(recorder.rows)
        columns = [kept.columns for kept in recorder.evaluations.values()]
        assert columns and all(columns) is (type(task) is Classification)
    assert equal(*ends)
    assert rows[0] == rows[1]


def test_what_is_kept_agrees_with_the_metrics() -> None:
    state, recorder = toy_state(), Memory()
    toy_trainer(recorder).fit(state, state.model)
    for step, kept in recorder.evaluations.items():
        label, prediction, _, loss = kept.rows[:, 1:].unbind(1)
        assert float((label == prediction).double().mean()) == recorder.rows[step]["val/top1"]
        assert float(loss.mean()) == pytest.approx(recorder.rows[step]["val/loss"], rel=1e-5)
