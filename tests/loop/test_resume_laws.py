"""What a resumed run takes over, law by law: rates, the gradient scaler, averages, the best one and when to stop."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plainloop.config.build import build
from plainloop.config.durations import clock_of
from plainloop.errors import NonFinite
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.run_dir.checkpoint_format import state_from_bytes, state_to_bytes
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.schedule import constant
from tests.harness.configs import checked
from tests.harness.tensors import equal
from tests.harness.toys import CLASSES, Memory, toy_state, toy_trainer
from tests.loop.test_mutations import Loop, Scripted, boosted

SCHEDULES = (
    *("constant", "multistep", "step", "polynomial", "exponential", "cosine", "cosine_warmup", "linear"),
    *("onecycle", "cyclic"),
)
WARMUPS = {"steps": "7st", "epochs": "1ep", "share": "15%"}
NO_WARMUP = ("onecycle", "cyclic")
CASES = [(name, unit) for name in SCHEDULES for unit in WARMUPS if unit == "steps" or name not in NO_WARMUP]


class Rates(Trainer):
    """Learns nothing; keeps what the optimizer would have used."""

    seen: list[tuple[float, ...]]

    def update(self, model: Any, state: TrainState, batch: Any) -> None:
        self.seen.append(
            tuple(value for group in state.optimizer.param_groups for value in (group["lr"], *group["betas"]))
        )


def rates(state: TrainState, schedule: Any, *, steps: int = 40, save_every: int | None = None) -> tuple[Rates, Memory]:
    recorder = Memory()
    settings = {"schedule": schedule, "log_every": 1000, "eval_every": None, "save_every": save_every}
    trainer = Rates(**vars(toy_trainer(recorder, steps=steps, **settings)))
    object.__setattr__(trainer, "seen", [])
    trainer.fit(state, state.model)
    return trainer, recorder


@pytest.mark.parametrize(("name", "unit"), CASES)
def test_rates_after_a_resume_at_any_of_40_steps_are_the_same_floats(name: str, unit: str) -> None:
    warmup = [] if name in NO_WARMUP else [f"scheduler.warmup={WARMUPS[unit]}"]
    config = checked(f"scheduler={name}", "trainer.duration=40st", "data.batch_size=287", *warmup)
    make = functools.partial(build, config["scheduler"], clock_of(config), plugins=[], base_lr=0.02)
    undisturbed, recorder = rates(toy_state(), make(), save_every=1)
    assert len(undisturbed.seen) == 40
    for step, save in recorder.saved.items():
        state = toy_state(seed=5, lr=0.5)  # what the save does not bring back would be seen
        state.load_state_dict(state_from_bytes(bytes(state_to_bytes(save))))
        assert rates(state, make())[0].seen == undisturbed.seen[step:], f"resumed at step {step}"


def test_a_rate_that_depends_on_where_the_run_began_is_caught() -> None:
    class Counting:
        calls = 0

        def __call__(self, step: int) -> float:
            self.calls += 1
            return 0.9**self.calls

    undisturbed, recorder = rates(toy_state(), Counting(), save_every=1)
    state = toy_state()
    state.load_state_dict(recorder.saved[20])
    assert rates(state, Counting())[0].seen != undisturbed.seen[20:]


OVERFLOWS = (3, 7, 8, 15, 22)  # two in a row, and one just after the scale has grown back


class Tracing(Trainer):
    """Keeps scale, growth tracker, counted updates and the average's distance after every step."""

    def update(self, model: Any, state: TrainState, batch: Any) -> None:
        super().update(model, state, batch)
        scaler = state.scaler.state_dict()
        counts = {int(entry["step"]) for entry in state.optimizer.state.values()}
        self.recorder.trace[state.step + 1] = (scaler["scale"], scaler["_growth_tracker"], max(counts, default=0))


def scaled(state: TrainState, *, steps: int = 30) -> Memory:
    recorder = Memory()
    recorder.trace = {}
    parts = {"task": Boosted(num_classes=CLASSES), "data": boosted(1e38, *OVERFLOWS)}
    trainer = toy_trainer(recorder, steps=steps, save_every=1, log_every=4, eval_every=10, **parts)
    Tracing(**vars(trainer)).fit(state, state.model)
    return recorder


class Boosted(Scripted):
    def metrics(self) -> Any:
        return super(Scripted, self).metrics()


def test_scale_and_growth_go_on_after_every_overflow() -> None:
    state = toy_state(scaler=True)
    undisturbed = scaled(state)
    trace = undisturbed.trace
    assert [step for step in trace if step > 1 and trace[step][0] < trace[step - 1][0]] == list(OVERFLOWS)
    assert trace[30][2] + state.skipped == state.step == 30
    assert state.skipped == len(OVERFLOWS)
    for step in OVERFLOWS:
        again = toy_state(scaler=True, seed=5)
        again.load_state_dict(state_from_bytes(bytes(state_to_bytes(undisturbed.saved[step]))))
        later = scaled(again)
        assert later.trace == {at: value for at, value in trace.items() if at > step}
        assert equal(again.state_dict(), state.state_dict()), f"resumed after step {step}"


def test_a_scaler_that_collapses_stops_the_run() -> None:
    state, recorder = toy_state(scaler=True), Memory()
    parts = {"task": Boosted(num_classes=CLASSES), "data": boosted(math.inf, *range(1, 201))}
    trainer = toy_trainer(recorder, steps=200, log_every=1, max_skips=20, **parts)
    with pytest.raises(
        NonFinite, match=r"steps 1 to 21, .*21 updates in a row were skipped \(scale 0\.000488281\)"
    ) as error:
        trainer.fit(state, state.model)
    assert error.value.hint == "look at step 1"


NAN, INF = math.nan, math.inf
# Values of the evaluations; the step of the best one, and the step after which training ends.
CURVES: dict[str, tuple[Sequence[float], tuple[int | None, int]]] = {
    "best first": ((0.9, 0.1, 0.2, 0.3, 0.4, 0.5), (2, 8)),
    "best early": ((0.1, 0.9, 0.2, 0.3, 0.4, 0.5), (4, 10)),
    "best last": ((0.1, 0.2, 0.3, 0.4, 0.5, 0.9), (12, 12)),
    "best after a pause": ((0.5, 0.4, 0.3, 0.9, 0.1, 0.2), (8, 12)),
    "ties": ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), (2, 8)),
    "a tie later": ((0.1, 0.7, 0.2, 0.7, 0.3, 0.7), (4, 10)),
    "gains below min_delta": ((0.5, 0.505, 0.51, 0.515, 0.52, 0.525), (12, 12)),
    "NaN first": ((NAN, 0.2, 0.3, 0.1, 0.1, 0.1), (6, 12)),
    "NaN amid": ((0.2, NAN, 0.3, NAN, NAN, NAN), (6, 12)),
    "infinite": ((0.2, INF, 0.1, 0.3, -INF, 0.2), (8, 12)),
    "mostly NaN": ((NAN, NAN, 0.5, NAN, NAN, 0.6), (12, 12)),
    "all NaN": ((NAN, NAN, NAN, NAN, NAN, NAN), (None, 6)),
}
EVERY = 2  # steps from one evaluation to the next


class Died(BaseException):
    """Stands for a kill: nothing of ours catches it."""


class OnDisk(Memory):
    """Real checkpoints; dies as soon as the given step is on disk."""

    def __init__(self, folder: Path, *, dies_at: int | None = None) -> None:
        super().__init__(folder)
        self.checkpoints, self.dies_at = Checkpoints(folder), dies_at

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None:
        data = state.state_dict(windows)
        self.checkpoints.save(data, step=state.step, best=best, metric="val/top1", value=state.best)
        if state.step == self.dies_at:
            raise Died


def evaluated(folder: Path, curve: Sequence[float], mode: str, *, dies_at: int | None = None) -> TrainState:
    sign = 1 if mode == "max" else -1

    class Curve(Scripted):
        def loss(self, model: Any, batch: Any) -> Any:
            return super(Scripted, self).loss(model, batch)

        def metrics(self) -> Any:
            value = sign * curve[self.step // EVERY - 1]

            class Metrics:
                def update(self, prediction: Any, batch: Any) -> None: ...

                def compute(self) -> dict[str, float]:
                    return {"top1": value}

            return Metrics()

    task = Curve(num_classes=CLASSES)
    task.mode = mode
    settings = {"log_every": 100, "eval_every": EVERY, "save_every": EVERY, "patience": 3, "min_delta": 0.01}
    recorder = OnDisk(folder, dies_at=dies_at)
    state = toy_state(seed=0)
    if loaded := recorder.checkpoints.newest():
        state.load_state_dict(loaded.state)
    trainer = toy_trainer(
        recorder, steps=EVERY * len(curve), schedule=lambda step: constant(step, total_steps=12), task=task, **settings
    )
    Loop(**vars(trainer)).fit(state, state.model)
    return state


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", CURVES)
def test_the_best_one_and_the_end_do_not_depend_on_kills(name: str, mode: str, tmp_path: Path) -> None:
    curve, (best_step, last_step) = CURVES[name]

    def outcome(folder: Path, dies_at: int | None = None) -> Any:
        try:
            state = evaluated(folder, curve, mode, dies_at=dies_at)
        except NonFinite as error:
            newest = Checkpoints(folder).newest()
            assert newest is not None
            return newest.step, str(error).replace(str(folder), "")
        best = (folder / "best.json").read_text()
        return state.step, state.best, state.best_step, state.evaluations_without_gain, best

    undisturbed = outcome(tmp_path / "undisturbed")
    assert undisturbed[0] == last_step
    if best_step is None:
        assert "not a number in any of the 3 evaluations" in undisturbed[1]
    else:
        assert undisturbed[2] == best_step
    for step in range(EVERY, undisturbed[0] + 1, EVERY):
        folder = tmp_path / str(step)
        with pytest.raises(Died):
            evaluated(folder, curve, mode, dies_at=step)
        assert outcome(folder) == undisturbed, f"killed after step {step}"
