"""Whatever is left out of a resume, or shifted by one, is noticed: the control of every law about resuming.

Each mutation breaks one thing that a resumed run takes over or derives. The run then goes on from a save in the middle,
and must end differently from one that nobody touched. The settings are such that everything matters: a scripted metric
is best before the save and stops the run after it, the scaler skips updates, and log windows are open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.errors import NonFinite
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.system import rng
from plainloop.tasks.classification import Classification
from tests.harness.tensors import clone, equal
from tests.harness.toys import CLASSES, Memory, ToyData, toy_state, toy_trainer

# The saves that are resumed from. A mutation is caught if one of them gives it away: a row of skipped updates is being
# counted at 12, the scaler is about to grow and early stopping has begun to count at 18, 20 has just been evaluated.
SAVES = (12, 18, 20)
CURVE = {5: 0.5, 10: 0.9, 15: 0.6, 20: 0.7, 25: 0.8}


class Scripted(Classification):
    """Evaluations follow a script, so that the best one lies before the save and early stopping after it."""

    step = 0

    def loss(self, model: Any, batch: Any) -> Any:
        loss, scalars = super().loss(model, batch)
        return loss * batch["boost"][0], scalars

    def metrics(self) -> Any:
        task = self

        class Metrics:
            def update(self, prediction: Any, batch: Any) -> None:
                # The stream of evaluations must not disturb training: it draws.
                torch.rand(())

            def compute(self) -> dict[str, float]:
                return {"top1": CURVE[task.step]}

        return Metrics()


def boosted(boost: float, *steps: int) -> ToyData:
    """Scaled gradients overflow in these steps."""
    return ToyData(change=lambda step, batch: batch | {"boost": torch.full((8,), boost if step in steps else 1.0)})


class Loop(Trainer):
    def log_and_evaluate(self, state: TrainState, watch: Any) -> bool:
        self.task.step = state.step
        return super().log_and_evaluate(state, watch)


def noise(batch: Any, step: int) -> Any:
    return batch | {"image": batch["image"] + 0.1 * torch.rand_like(batch["image"])}


def loop(recorder: Memory, **changed: Any) -> Loop:
    settings = {"log_every": 10, "save_every": 1, "patience": 3, "accumulate": 2, "clip_norm": 0.5, "max_skips": 3}
    parts = {"task": Scripted(num_classes=CLASSES), "data": boosted(1e38, 11, 12, 13, 16), "augment": (noise,)}
    return Loop(**vars(toy_trainer(recorder, steps=25, **parts, **settings)) | changed)


def fit(state: TrainState, recorder: Memory | None = None, **changed: Any) -> tuple[TrainState, Memory]:
    recorder = recorder or Memory(Path("toy"))
    loop(recorder, **changed).fit(state, state.model)
    return state, recorder


def outcome(state: TrainState, recorder: Memory, *, after: int) -> dict[str, Any]:
    rows = {step: row for step, row in recorder.rows.items() if step > after}
    return {"state": state.state_dict(), "rows": rows, "best": [step for step in recorder.best if step > after]}


@pytest.fixture(scope="module")
def undisturbed() -> tuple[TrainState, Memory]:
    return fit(toy_state(scaler=True))


def resumed(save: dict[str, Any], *, after: int) -> dict[str, Any]:
    state = toy_state(scaler=True, seed=5)
    state.load_state_dict(clone(save))
    return outcome(*fit(state), after=after)


def leaves(save: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], None]]:
    """Every component of the state, with a way of losing it or of getting it wrong by one."""

    def shift(*path: Any) -> Callable[[dict[str, Any]], None]:
        def mutate(tree: dict[str, Any]) -> None:
            if path[-1] == "body.weight":  # tied: the name that is loaded last counts
                shift(path[0], "again.weight")(tree)
            for key in path[:-1]:
                tree = tree[key]
            tree[path[-1]] = tree[path[-1]] + 1

        return mutate

    fresh = toy_state(scaler=True, seed=5).state_dict()
    found: dict[str, Callable[[dict[str, Any]], None]] = {}
    for part in ("model", "ema"):
        # Integers of the average are copied from the model at each step: there is nothing to lose.
        for name in save[part].keys() - ({"norm.num_batches_tracked"} if part == "ema" else set()):
            found[f"{part}.{name}+1"] = shift(part, name)
        found[f"{part} lost"] = lambda tree, part=part: tree.update({part: clone(fresh[part])})
    for index, entry in save["optimizer"]["state"].items():
        for name in entry:
            found[f"optimizer.{index}.{name}+1"] = shift("optimizer", "state", index, name)
    found["optimizer lost"] = lambda tree: tree["optimizer"].update(state={})
    found["optimizer.group.initial_lr+1"] = shift("optimizer", "param_groups", 0, "initial_lr")
    found["optimizer.group.weight_decay+1"] = shift("optimizer", "param_groups", 0, "weight_decay")
    found["optimizer.group.eps+1"] = shift("optimizer", "param_groups", 0, "eps")
    found["scaler.scale+1"] = shift("scaler", "scale")
    found["scaler.growth+1"] = shift("scaler", "_growth_tracker")
    found["scaler lost"] = lambda tree: tree.update(scaler=clone(fresh["scaler"]))
    found["reported-1"] = lambda tree: tree.update(reported=tree["reported"] - 1)
    for name in ("step", "skipped", "skipped_in_a_row", "best_step", "evaluations_without_gain"):
        found[f"{name}+1"] = shift(name)
    for name in ("skipped", "evaluations_without_gain"):
        found[f"{name} lost"] = lambda tree, name=name: tree.update({name: 0})
    for name in ("best", "milestone", "best_step"):
        found[f"{name} lost"] = lambda tree, name=name: tree.update({name: None})
    found["best+1"], found["milestone+1"] = shift("best"), shift("milestone")
    found["window lost"] = lambda tree: tree.update(windows=[])
    found["window without its last row"] = lambda tree: tree["windows"][0].pop() and tree["windows"][0].pop()
    found["window.loss+1"] = shift("windows", 0, -2, "loss")
    return found


@pytest.mark.parametrize("step", SAVES)
def test_a_save_goes_on_exactly(step: int, undisturbed: tuple[TrainState, Memory]) -> None:
    state, recorder = undisturbed
    assert equal(resumed(recorder.saved[step], after=step), outcome(state, recorder, after=step))


def test_every_mutation_of_the_state_is_caught(undisturbed: tuple[TrainState, Memory]) -> None:
    state, recorder = undisturbed
    assert (state.step, state.skipped, state.best_step) == (25, 4, 10)
    survivors = mutations = set(leaves(recorder.saved[SAVES[0]]))
    for step in SAVES:
        save, expected = recorder.saved[step], outcome(state, recorder, after=step)
        survivors = {name for name in survivors if survives(save, leaves(save)[name], expected, step)}
    assert len(mutations) > 50
    assert not survivors, "\n".join(sorted(survivors))


def survives(
    save: dict[str, Any], mutate: Callable[[dict[str, Any]], Any], expected: dict[str, Any], step: int
) -> bool:
    mutant = clone(save)
    try:
        mutate(mutant)
    except (IndexError, KeyError):  # this save has no such part
        return True
    try:
        return equal(resumed(mutant, after=step), expected)
    except (NonFinite, KeyError, RuntimeError):
        return False  # noticed at once


STREAMS = {name: getattr(rng, name) for name in ("ORDER", "STEP")}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("part", [1, 2, 3], ids=["seed", "position", "rank"])
def test_every_derived_seed_shifted_by_one_is_caught(
    stream: str, part: int, undisturbed: tuple[TrainState, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, recorder = undisturbed
    fold = rng.fold
    if (stream, part) == ("ORDER", 3):
        return  # an order has no rank: that all ranks have the same one is a law of the sampler's tests

    def shifted(*parts: int) -> int:
        return fold(*(p + (at == part) if parts[0] == STREAMS[stream] else p for at, p in enumerate(parts)))

    monkeypatch.setattr(rng, "fold", shifted)
    assert not equal(resumed(recorder.saved[18], after=18), outcome(state, recorder, after=18))
