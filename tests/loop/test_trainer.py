from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from plainloop.errors import BadConfig, BadData, NonFinite
from plainloop.loop.monitor import Monitor, count_for_early_stop, update_best
from plainloop.loop.state import TrainState
from plainloop.loop.stopwatch import Stopwatch
from plainloop.loop.trainer import Trainer
from tests.harness.runs import by_task
from tests.harness.tensors import HostRead, NoHostReads, equal
from tests.harness.toys import Memory, ToyData, toy_state, toy_trainer


def trained(state: TrainState, **settings: Any) -> tuple[TrainState, Memory]:
    recorder = Memory()
    toy_trainer(recorder, **settings).fit(state, state.model)
    return state, recorder


class Watched(Trainer):
    """Forbids host reads in updates."""

    def update(self, model: nn.Module, state: TrainState, batch: Any) -> None:
        with NoHostReads():
            super().update(model, state, batch)


class Careless(Watched):
    def evaluate(self, model: nn.Module, split: Any, collector: Any = None) -> dict[str, float]:
        return {"top1": 0.0}

    def needs_grad_norm(self, state: TrainState) -> bool:
        state.model.head.bias.sum().item()
        return False


def watched(kind: type[Trainer], **settings: Any) -> Trainer:
    trainer = toy_trainer(**settings)
    return kind(**{field.name: getattr(trainer, field.name) for field in dataclasses.fields(trainer)})


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate": 2}, {"clip_norm": 0.5, "clip_value": 0.1}, {"clip_agc": 0.01}, {"precision": torch.bfloat16}],
    ids=str,
)
@by_task
def test_an_update_never_waits_for_the_device(task: str, settings: dict[str, Any]) -> None:
    state = toy_state(task)
    watched(Watched, task=task, **settings).fit(state, state.model)
    assert state.step == 12


def test_an_update_that_reads_a_value_is_caught() -> None:
    state = toy_state()
    with pytest.raises(HostRead):
        watched(Careless).fit(state, state.model)


@by_task
def test_no_value_leaves_the_device_between_log_and_agreement_steps(task: str) -> None:
    """The whole loop, data included, under the mode; it is lifted only inside the meetings."""
    mode, meetings = NoHostReads(), []

    class Lifting(Trainer):
        def read_window(self, state: TrainState) -> int | None:
            meetings.append(state.step)
            with torch.utils._python_dispatch._disable_current_modes():
                return super().read_window(state)

        def log_evaluate_save(self, state: TrainState, watch: Any, decision: Any) -> None:
            with torch.utils._python_dispatch._disable_current_modes():
                super().log_evaluate_save(state, watch, decision)

    state = toy_state(task)
    with mode:
        watched(Lifting, task=task, log_every=6, eval_every=None).fit(state, state.model)
    assert set(meetings) <= {1, 6, 12}


@by_task
def test_accumulation_changes_memory_not_the_update(task: str) -> None:
    """Without BatchNorm, whose statistics are of a micro-batch; only the order of additions differs."""
    whole, parts = (toy_state(task, dropout=0.0, ema=None, lr=1e-3) for _ in range(2))
    for state, accumulate in ((whole, 1), (parts, 4)):
        state.model.norm = nn.Identity()
        trained(state, task=task, accumulate=accumulate)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_logged_loss_is_the_mean_over_its_window() -> None:
    _, every = trained(toy_state(), log_every=1, eval_every=None)
    _, window = trained(toy_state(), log_every=4, eval_every=None)
    losses = [every.rows[step]["train/loss"] for step in range(5, 9)]
    assert window.rows[8]["train/loss"] == math.fsum(losses) / 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_clipping_sees_the_same_norm_with_and_without_gradient_scaling(accumulate: int) -> None:
    _, plain = trained(toy_state(), log_every=1, clip_norm=0.3, accumulate=accumulate)
    _, scaled = trained(toy_state(scaler=True), log_every=1, clip_norm=0.3, accumulate=accumulate)
    for step, row in plain.rows.items():
        # Scales are powers of two; what is left is that subnormal numbers round otherwise.
        assert scaled.rows[step]["train/grad_norm"] == pytest.approx(row["train/grad_norm"], rel=1e-6)


def test_the_rate_of_a_step_is_the_schedule_of_the_steps_before_it() -> None:
    _, recorder = trained(toy_state(), log_every=1, eval_every=None)
    assert [recorder.rows[step]["train/lr"] for step in (1, 7, 8)] == [0.02, 0.02, 0.02 * 0.1]


def test_ema_follows_its_formula() -> None:
    state = toy_state(ema=0.9)
    expected = state.ema.model.head.weight.clone()

    class Following(Trainer):
        def update(self, model: nn.Module, state: TrainState, batch: Any) -> None:
            super().update(model, state, batch)
            decay = min(0.9, (1 + state.step) / (10 + state.step))
            expected.lerp_(state.model.head.weight.detach(), 1 - decay)

    watched(Following).fit(state, state.model)
    assert torch.equal(state.ema.model.head.weight, expected)
    assert torch.equal(state.ema.model.norm.num_batches_tracked, state.model.norm.num_batches_tracked)


@pytest.mark.parametrize("kind", ["plain", "accumulate", "bf16", "scaler", "clip"])
@by_task
def test_a_run_that_goes_on_from_any_step_ends_with_the_same_bits(task: str, kind: str) -> None:
    settings: dict[str, Any] = {"task": task} | {
        "plain": {},
        "accumulate": {"accumulate": 2},
        "bf16": {"precision": torch.bfloat16},
        "scaler": {},
        "clip": {"clip_norm": 0.1},
    }[kind]
    make = lambda seed=0: toy_state(task, scaler=kind == "scaler", seed=seed)  # noqa: E731
    undisturbed, recorder = trained(make(), save_every=1, **settings)
    end = undisturbed.state_dict()
    for step, saved in recorder.saved.items():
        if step == undisturbed.step:
            continue
        again = make(seed=99)
        again.load_state_dict(saved)
        _, later = trained(again, save_every=1, **settings)
        assert equal(again.state_dict(), end), f"from step {step}"
        expected = {at: row for at, row in recorder.rows.items() if at > saved["reported"]}
        assert later.rows == expected, f"from step {step}"


@pytest.mark.parametrize(
    "leaf", [name for name in toy_state(scaler=True).state_dict() if name not in ("reported", "skipped")]
)
def test_a_state_without_one_of_its_parts_is_noticed(leaf: str) -> None:
    """The control of the law above: every part of the state matters to what comes after, or is refused when missing."""
    _, recorder = trained(toy_state(scaler=True), save_every=1)
    saved = recorder.saved[6]
    with pytest.raises(ValueError, match=leaf):
        toy_state(scaler=True).load_state_dict({name: part for name, part in saved.items() if name != leaf})


def measured(trainer: Trainer, state: TrainState, **metrics: float) -> bool:
    """What an evaluation with these metrics leaves in the state; whether it is the best."""
    count_for_early_stop(state, metrics, trainer.stop_by, min_delta=trainer.min_delta)
    return update_best(state, metrics, trainer.best_by)


def test_early_stopping_counts_evaluations_without_gain() -> None:
    trainer = toy_trainer(patience=2, min_delta=0.1)
    state = toy_state()
    curve = [0.5, 0.55, 0.7, 0.75, 0.79]  # gains: first, third; the last two add less than min_delta each
    assert [measured(trainer, state, top1=value) for value in curve] == [True] * 5
    assert state.evaluations_without_gain == 2 and trainer.has_ended(state)
    assert (state.best, state.best_for_early_stop) == (0.79, 0.7)
    assert state.stopped_early == "no better val/top1 for 2 evaluations"


def test_the_best_evaluation_and_early_stopping_can_have_metrics_of_their_own() -> None:
    trainer = toy_trainer(best_by=Monitor("loss", "min"), stop_by=Monitor("top1", "max"))
    state = toy_state()
    curve = [(0.5, 0.9), (0.6, 1.0), (0.5, 0.8)]
    assert [measured(trainer, state, top1=top1, loss=loss) for top1, loss in curve] == [True, False, True]
    assert (state.best, state.best_for_early_stop, state.evaluations_without_gain) == (0.8, 0.6, 1)
    with pytest.raises(BadConfig, match="is loss, which no evaluation gives") as error:
        measured(trainer, state, top1=0.5, miou=0.1)
    assert error.value.hint == "type one of top1, miou"


def test_data_that_end_early_fail_the_run_and_the_step_is_named() -> None:
    class Short(ToyData):
        def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Any]:
            yield from super().train_batches(start, 5, seed)

    with pytest.raises(BadData, match="the training data ended after step 5 of 12"):
        trained(toy_state(), data=Short())


def test_saves_do_not_count_as_time_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    watch = Stopwatch(0)
    now[0] += 2.0  # two steps
    with watch.saving():
        now[0] += 100.0
    times = {"time/images_per_s": 8.0, "time/data_s": 0.0, "time/step_s": 1.0, "time/save_s": 100.0}
    assert watch.lap(2, 8) == times


def test_the_times_of_all_rows_add_up_to_the_time_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rows = [0.0], {}
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def takes(seconds: float, function: Any) -> Any:
        def slower(*args: Any, **settings: Any) -> Any:
            now[0] += seconds
            return function(*args, **settings)

        return slower

    class Slow(Memory):
        row = takes(3.0, lambda self, step, scalars, *, best: rows.update({step: scalars}))
        save = takes(1000.0, Memory.save)

    class Timed(Trainer):
        update = takes(20.0, Trainer.update)
        evaluate = takes(100.0, Trainer.evaluate)

    data = ToyData(change=takes(1.0, lambda step, batch: batch))
    augment, state = [takes(2.0, lambda batch, step: batch)], toy_state()
    state.optimizer.register_step_post_hook(takes(3.0, lambda *_: None))
    Timed(**vars(toy_trainer(Slow(), data=data, augment=augment, save_every=5))).fit(state, state.model)
    steps = {step: step - before for before, step in itertools.pairwise([0, *rows])}
    times = [
        row["time/step_s"] * steps[step] + row["time/save_s"] + row.get("time/eval_s", 0.0)
        for step, row in rows.items()
    ]
    assert sum(times) == pytest.approx(now[0] - 1003.0)  # the last row, and the save at the end
    assert {row["time/data_s"] for row in rows.values()} == {1.0}
    assert {row["time/step_s"] for row in rows.values()} == {26.0}
    assert {(row["time/prepare_s"], row["time/optimizer_s"]) for row in rows.values()} == {(2.0, 3.0)}
    assert {row.get("time/eval_s") for row in rows.values()} == {None, 200.0}


def poisoned(*steps: int, value: float = math.nan) -> ToyData:
    """One image of each of these steps is that value."""

    def poison(step: int, batch: Any) -> Any:
        if step in steps:
            batch["image"] = batch["image"].float()
            batch["image"][0] = value
        return batch

    return ToyData(change=poison)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bad_number_stops_the_run_and_nothing_bad_is_saved(value: float) -> None:
    recorder = Memory()
    state = toy_state()
    trainer = toy_trainer(recorder, data=poisoned(7, value=value), save_every=1)
    with pytest.raises(NonFinite, match=r"step 7, learning rate 0\.02: the loss or a gradient is not") as error:
        trainer.fit(state, state.model)
    assert error.value.hint == "look at step 7"
    ((step, lr, samples),) = recorder.bad
    batch = next(ToyData().train_batches(6, 7, 3))
    assert (step, lr, samples) == (7, 0.02, batch["index"].tolist())
    assert max(recorder.saved) == 6


def test_a_skipped_update_changes_no_weight() -> None:
    state, recorder = trained(toy_state(), data=poisoned(6, 7), skip_nonfinite=True, log_every=1, save_every=1)
    before, after = recorder.saved[5], recorder.saved[7]
    assert equal(before["model"], after["model"])
    assert (state.step, state.skipped, state.skipped_in_a_row) == (12, 2, 0)
    assert recorder.rows[7]["train/skipped"] == 1.0 and "train/loss" not in recorder.rows[7]
    assert [step for step, *_ in recorder.bad] == [6, 7]
    assert recorder.bad[1] == (7, 0.02, next(ToyData().train_batches(6, 7, 3))["index"].tolist())
