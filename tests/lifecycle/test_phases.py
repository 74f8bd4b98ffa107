"""SIGKILL at every point of a run: between any two lines of the loop, of an evaluation and of a save."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from plainloop.loop.state import TrainState
from plainloop.run.run import run
from plainloop.run_dir import journal
from tests.harness.children import Child
from tests.harness.configs import checked
from tests.harness.lines import Point, killed_at, trace
from tests.harness.runs import STATEFUL, TASKS, by_task, differences, remains, start_config

RUN = (
    *STATEFUL,
    "scheduler=multistep",
    "scheduler.milestones=[1ep,2ep]",
    "trainer.duration=12st",
    "trainer.log_every=3",
    "trainer.save_every=2st",
)
Kind = tuple[str, str, int]
KINDS: dict[str, list[Kind]] = {
    task: [(task, precision, accumulate) for precision in ("fp32", "fp16", "bf16") for accumulate in (1, 3)]
    for task in TASKS
}
SAMPLES = {"classification": 12, "segmentation": 4, "detection": 2}


class Reference:
    """A run that nobody touches, and how often it comes to each point."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        task, precision, accumulate = kind
        more = (f"trainer.precision={precision}", f"trainer.accumulate={accumulate}")
        self.config = checked(*TASKS[task], *RUN, *more)

        def traced() -> None:
            hits: Counter[Point] = Counter()
            trace(lambda point: hits.update([point]))
            run(self.config, folder)
            (folder / "hits.json").write_text(json.dumps(list(hits.items())))

        ended = Child(traced).wait()
        assert ended.code == 0, ended.err
        self.hits = {Point(*point): count for point, count in json.loads((folder / "hits.json").read_text())}
        self.remains = remains(folder)

        self.points = sorted(self.hits)  # file by file and function by function

    def differences(self, point: Point, folder: Path, *, share: float) -> list[str]:
        """After a kill at the point, that share of the way through its visits, and one more start."""
        hit = max(1, round(share * self.hits[point]))
        killed = start_config(self.config, folder, prepare=killed_at(point, hit)).wait()
        if killed.code != -9:
            return [f"not killed, but ended with {killed.code}: {killed.err}"]
        again = start_config(self.config, folder).wait()
        return [again.err] if again.code else differences(self.remains, remains(folder))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Reference]:
    return cache(lambda kind: Reference(kind, tmp_path_factory.mktemp("reference")))


@pytest.fixture(autouse=True)
def one_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often a run comes to a line then does not depend on its speed."""
    monkeypatch.setattr(journal, "HEARTBEAT_S", 1e9)


def wrong(kind: Kind, points: list[Point], undisturbed: Reference, folder: Path, share: float) -> Any:
    """What differs, by the point."""
    found = {p: undisturbed.differences(p, folder / str(n), share=share) for n, p in enumerate(points)}
    print(f"{kind}: {len(points)} points, {share:.0%} of the way")
    return {point: names for point, names in found.items() if names}


@pytest.mark.parametrize(("task", "sample"), [(task, n) for task, samples in SAMPLES.items() for n in range(samples)])
def test_a_run_killed_at_any_line_ends_with_the_same_bits(
    task: str, sample: int, reference: Any, tmp_path: Path
) -> None:
    kind = KINDS[task][sample % 2]  # both without and with micro-batches
    points = reference(kind).points
    assert wrong(kind, [points[len(points) * sample // SAMPLES[task]]], reference(kind), tmp_path, 0.6) == {}


@by_task
def test_a_part_that_is_not_carried_over_is_caught(
    task: str, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a resume that forgets the average."""
    load = TrainState.load_state_dict
    undisturbed = reference(KINDS[task][0])

    def forget(self: TrainState, saved: dict[str, Any], **more: Any) -> None:
        load(self, saved | {"ema": saved["model"]}, **more)

    monkeypatch.setattr(TrainState, "load_state_dict", forget)
    point = next(point for point in undisturbed.points if point.function == "Trainer.update")
    found = undisturbed.differences(point, tmp_path / "run", share=0.6)
    assert any(name.startswith("state.ema.") for name in found)


@by_task
def test_the_lines_of_a_step_an_evaluation_and_a_save_are_among_the_points(task: str, reference: Any) -> None:
    functions = {point.function for point in reference(KINDS[task][0]).hits}
    assert functions >= {"Trainer.update", "Trainer.evaluate", "EMA.update", "Checkpoints.save", "write_whole"}


@pytest.mark.kill
@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds], ids=str)
def test_every_fifth_line_of_every_kind_is_exact(kind: Kind, reference: Any, tmp_path: Path) -> None:
    undisturbed = reference(kind)
    at = KINDS[kind[0]].index(kind)
    assert wrong(kind, undisturbed.points[at % 5 :: 5], undisturbed, tmp_path / "step", 0.6) == {}
    assert wrong(kind, undisturbed.points[at::25], undisturbed, tmp_path / "edge of an epoch", 5.5 / 12) == {}


@pytest.mark.kill
def test_every_line_is_exact(reference: Any, tmp_path: Path) -> None:
    kind = ("classification", "fp16", 3)
    assert wrong(kind, reference(kind).points, reference(kind), tmp_path, 0.4) == {}
