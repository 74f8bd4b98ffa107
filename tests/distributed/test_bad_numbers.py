"""A number that is bad on one rank is bad for all: they raise together, or leave the same update out together."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.errors import NonFinite
from plainloop.loop.trainer import Trainer
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.status import read_status
from plainloop.system import rng, storage
from plainloop.tasks.classification import Classification
from tests.distributed.test_one_process_would_say_the_same import wrap
from tests.harness import inject, ranks
from tests.harness.configs import checked
from tests.harness.tensors import equal
from tests.harness.toys import CLASSES, Memory, toy_state, toy_trainer

BAD_STEP = 6


class Poison:
    """An augmentation that makes one rank's images bad, in one step."""

    def __init__(self, value: float, rank: int, *, steps: tuple[int, ...] = (BAD_STEP - 1,)) -> None:
        self.value, self.rank, self.steps = value, rank, steps

    def __call__(self, batch: Batch, step: int) -> Batch:
        if step in self.steps and collectives.rank() == self.rank:
            batch["image"] = torch.full_like(batch["image"], self.value)
        return batch


class PoisonedTask(Classification):
    """One rank's loss is bad in one step and its gradient is not, or the other way round."""

    def __init__(self, where: str, value: float, rank: int) -> None:
        super().__init__(num_classes=CLASSES)
        self.where, self.value, self.rank, self.calls = where, value, rank, 0

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        if self.calls != BAD_STEP or collectives.rank() != self.rank:
            return super().loss(model, batch)
        if self.where == "loss":
            loss, scalars = super().loss(model, batch)
            return loss + self.value, scalars | {"loss": loss.detach() + self.value}
        logits_of = model.forward

        def poisoned(image: Tensor) -> Tensor:
            logits: Tensor = logits_of(image)
            logits.register_hook(lambda gradient: torch.full_like(gradient, self.value))
            return logits

        model.forward = poisoned
        try:
            return super().loss(model, batch)
        finally:
            model.forward = logits_of


def fit(trainer: Trainer, **given: Any) -> dict[str, Any]:
    """What a rank ends with."""
    state = toy_state(**given)
    error = ""
    try:
        trainer.fit(state, wrap(state.model))
    except NonFinite as bad:
        error = str(bad)
    memory = trainer.recorder
    assert isinstance(memory, Memory)
    return {
        "error": error,
        "step": state.step,
        "skipped": state.skipped,
        "weights": [value.detach() for value in state.model.parameters()],
        "bad": memory.bad,
        "saved": sorted(memory.saved),
    }


CASES = list(itertools.product(("loss", "gradient", "images"), (math.nan, math.inf, -math.inf), (0, 1)))


def poisoned(where: str, value: float, rank: int, **more: Any) -> Trainer:
    if where == "gradient":
        more = {"clip_norm": 1.0} | more  # something that looks at gradients in every step
    if where == "images":
        return toy_trainer(augment=[Poison(value, rank)], **more)
    return toy_trainer(task=PoisonedTask(where, value, rank), **more)


@pytest.mark.parametrize(("where", "value", "rank"), CASES)
def test_all_ranks_raise_when_one_sees_a_bad_number(tmp_path: Path, where: str, value: float, rank: int) -> None:
    one, other = ranks.on_ranks(
        tmp_path / "meeting", 2, lambda: fit(poisoned(where, value, rank, eval_every=None, save_every=2))
    )
    assert one["error"] == other["error"] != ""
    assert f"step {BAD_STEP}," in one["error"]
    assert one["step"] == other["step"]
    assert len(one["bad"][0][2]) == 8  # the samples of both
    assert one["saved"] == other["saved"] == [2, 4]


@pytest.mark.parametrize(("where", "value", "rank"), CASES)
def test_all_ranks_skip_when_one_sees_a_bad_number(tmp_path: Path, where: str, value: float, rank: int) -> None:
    one, other = ranks.on_ranks(tmp_path / "meeting", 2, lambda: fit(poisoned(where, value, rank, skip_nonfinite=True)))
    assert one["error"] == other["error"] == ""
    assert one["skipped"] == other["skipped"] == 1
    assert equal(one["weights"], other["weights"])
    assert all(bool(weight.isfinite().all()) for weight in one["weights"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_gradient_that_nobody_looks_at_is_found_by_the_next_loss(tmp_path: Path, rank: int) -> None:
    def act() -> dict[str, Any]:
        return fit(poisoned("gradient", math.nan, rank, clip_norm=None, eval_every=None))

    one, other = ranks.on_ranks(tmp_path / "meeting", 2, act)
    assert one["error"] == other["error"]
    assert f"step {BAD_STEP + 1}," in one["error"]


def test_all_ranks_skip_when_the_scaler_does(tmp_path: Path) -> None:
    def act() -> dict[str, Any]:
        trainer = toy_trainer(augment=[Poison(math.inf, 1)], precision=torch.bfloat16)
        return fit(trainer, scaler=True)

    one, other = ranks.on_ranks(tmp_path / "meeting", 2, act)
    assert equal(one["weights"], other["weights"])
    assert one["skipped"] == other["skipped"]


def test_a_rank_that_decides_alone_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "max_", lambda tensor: tensor)

    def act() -> dict[str, Any]:
        # The gradients are one rank's own here, so that only the decision could be shared.
        state, trainer = toy_state(), toy_trainer(augment=[Poison(math.nan, 1)], skip_nonfinite=True)
        for step in range(BAD_STEP):
            rng.seed_all(step)
            batch = trainer.augment[0](trainer.prepare(next(trainer.data.train_batches(step, step + 1, 0))), step)
            trainer.update(state.model, state, trainer.normalize(batch))
        state.window.read()
        return {"skipped": sum(row.get("skipped", 0) for row in state.window.rows)}

    one, other = ranks.on_ranks(tmp_path / "meeting", 2, act)
    assert one["skipped"] != other["skipped"]


RUN = ("model=tiny", "model.width=4", "data.batch_size=120", "trainer.duration=1ep", "trainer.save_every=2st")


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_run_leaves_finite_weights_and_names_the_samples(tmp_path: Path, policy: str) -> None:
    """Its second rank is handed images that are none, once."""
    seen = tmp_path / "seen"

    def poison(step: int, batch: Batch) -> None:
        if step == BAD_STEP - 1:
            storage.append_line(seen / f"{collectives.rank()}", {"index": batch["index"].tolist()})
            if collectives.rank() == 1:
                batch["image"].fill_(math.nan)

    def act() -> None:
        from plainloop.run.run import run

        inject.before_updates(poison)
        run(checked(*RUN, "device=cpu", f"trainer.on_nonfinite={policy}"), folder)

    folder = tmp_path / "run"
    seen.mkdir()
    codes = ranks.wait(ranks.start(ranks.new_meeting(folder), 2, act))
    assert codes == [NonFinite.code if policy == "raise" else 0] * 2
    loaded = Checkpoints(folder / "checkpoints").newest()
    assert loaded is not None
    assert all(bool(value.isfinite().all()) for value in loaded.state["model"].values())
    if policy == "raise":
        assert read_status(folder).state == "FAILED"
        assert loaded.state["step"] < BAD_STEP
        (event,) = [row for row in storage.read_lines(folder / "events.jsonl") if row["kind"] == "nonfinite"]
        samples = [storage.read_lines(seen / str(rank))[0]["index"] for rank in (0, 1)]
        assert (event["step"], event["samples"]) == (BAD_STEP, samples[0] + samples[1])
    else:
        assert read_status(folder).state == "DONE"
        assert loaded.state["skipped"] == 1
