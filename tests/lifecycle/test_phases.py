"""SIGKILL at every point of a step: between any two lines of the loop, of an evaluation and of a save."""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from plainloop.loop import state
from plainloop.run.run import run
from tests.harness.configs import checked
from tests.harness.kill import differences, remains
from tests.harness.lines import WATCHED, Point, killed_at, points, tracing

RUN = (
    "model.width=4",
    "model.drop_rate=0.2",
    "augment=crop_flip",
    "augment.crop.pad=1",
    "data.batch_size=240",  # five steps an epoch, and divisible by three
    "scheduler=multistep",
    "scheduler.milestones=[1ep,2ep]",
    "trainer.duration=12st",
    "trainer.clip_norm=1.0",
    "trainer.ema_decay=0.95",
    "trainer.log_every=3",
    "trainer.save_every=2st",
)
KINDS = [(precision, accumulate) for precision in ("fp32", "fp16", "bf16") for accumulate in (1, 3)]

# What the points are called: the function, and how the line begins before which the run dies.
PHASES = {
    "after fetch": ("Trainer.fit", "rng.seed_all("),
    "after the rate": ("Trainer.fit", "batch = self.prepare("),
    "after augmentation": ("Trainer.fit", "skipped = self.update("),
    "after forward": ("Trainer.update", "scale = share"),
    "after backward of a micro-batch": ("Trainer.update", "state.window.add(state.step + 1, share"),
    "after unscale": ("Trainer.update", "skip = False"),
    "after clip": ("Trainer.update", "bad = ~norm"),
    "after optimizer step": ("Trainer.update", "state.scaler.update()"),
    "after scaler update": ("Trainer.update", "state.optimizer.zero_grad()"),
    "before EMA": ("Trainer.update", "state.ema.update("),
    "amid EMA": ("EMA.update", "for own, other in self._copied"),
    "before the counter": ("Trainer.fit", "state.step += 1"),
    "after the counter": ("Trainer.fit", "self.recorder.advance("),
    "after log": ("Recorder.row", "self.journal.running("),
    "mid-evaluation": ("Trainer.evaluate", "if self.preemption.requested"),
    "after evaluation": ("Trainer.report", 'row |= {f"val/'),
    "after best is known": ("Trainer.report", "state.window.clear()"),
    "after best weights": ("Recorder.save", "path = self.checkpoints.save("),
    "save: serialised": ("Checkpoints.save", "good = finite"),
    "save: before the file": ("Checkpoints.save", "storage.write_whole(path, data"),
    "save: created": ("write_whole", "_write_all("),
    "save: written": ("write_whole", "again(os.fsync"),
    "save: synced": ("write_whole", "again(os.rename"),
    "save: renamed": ("write_whole", "sync_folder("),
    "save: before the manifest": ("Checkpoints.save", 'row["file"]'),
    "save: committed": ("Checkpoints.save", "self._tidy()"),
    "after save": ("Recorder.save", "self.journal.running("),
    "end of a save": ("Trainer.save", "distributed.barrier()"),
}


def point_of(phase: str) -> Point:
    """Raises where the source has no such line any more, or several: then the phase needs another name."""
    name, begins = PHASES[phase]
    function = next(function for function in WATCHED if function.__qualname__ == name)
    lines, first = inspect.getsourcelines(inspect.unwrap(function))
    found = [first + at for at, line in enumerate(lines) if line.strip().startswith(begins)]
    assert len(found) == 1, f"{phase}: {name} has {len(found)} lines that begin with {begins!r}"
    return Point(name, found[0])


@cache
def config_of(precision: str, accumulate: int) -> dict[str, Any]:
    return checked(*RUN, f"trainer.precision={precision}", f"trainer.accumulate={accumulate}")


def life(config: dict[str, Any], folder: Path, inside: AbstractContextManager[Any]) -> int:
    """One life of the run in a fork of this process; how it ended."""
    pid = os.fork()
    if not pid:
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (0, 1, 2):
                os.dup2(devnull, descriptor)
            with inside:
                run(config, folder)
            os._exit(0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Reference:
    """A run that nobody touches, and how often it comes to each point."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        def trace() -> None:
            hits: Counter[Point] = Counter()
            with tracing(lambda point: hits.update([point])):
                run(config, folder)
            (folder / "hits.json").write_text(json.dumps([[p.function, p.line, n] for p, n in hits.items()]))

        pid = os.fork()
        if not pid:
            try:
                trace()
                os._exit(0)
            finally:
                os._exit(99)
        assert os.waitpid(pid, 0)[1] == 0
        self.hits = {Point(name, line): n for name, line, n in json.loads((folder / "hits.json").read_text())}
        self.remains = remains(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Reference]:
    return cache(
        lambda precision, accumulate: Reference(
            config_of(precision, accumulate), tmp_path_factory.mktemp(f"{precision}-{accumulate}")
        )
    )


def exact(
    kind: tuple[str, int], point: Point, undisturbed: Reference, folder: Path, *, share: float = 0.6
) -> list[str]:
    """What differs after a life that ended at the point (that share of the way through its visits) and one more."""
    hit = max(1, round(share * undisturbed.hits[point]))
    code = life(config_of(*kind), folder, killed_at(point, hit))
    if code != -9:
        return [f"not killed, but ended with {code}"]
    code = life(config_of(*kind), folder, nullcontext())
    return [f"did not go on: {code}"] if code else differences(undisturbed.remains, remains(folder))


SAMPLE = [
    pytest.param(phase, KINDS[at % len(KINDS)], id=f"{phase}-{KINDS[at % len(KINDS)]}")
    for at, phase in enumerate(sorted(PHASES)[::3])
]


@pytest.mark.parametrize(("phase", "kind"), SAMPLE)
def test_a_run_killed_at_a_phase_ends_with_the_same_bits(
    phase: str, kind: tuple[str, int], reference: Callable[[str, int], Reference], tmp_path: Path
) -> None:
    assert exact(kind, point_of(phase), reference(*kind), tmp_path / "run") == []


def test_a_part_that_is_not_carried_over_is_caught(
    reference: Callable[[str, int], Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a resume that forgets the average."""
    load = state.TrainState.load_state_dict

    def forget(self: Any, saved: dict[str, Any], **more: Any) -> None:
        load(self, saved | {"ema": saved["model"]}, **more)

    monkeypatch.setattr(state.TrainState, "load_state_dict", forget)
    point = point_of("after optimizer step")
    found = exact(("fp32", 1), point, reference("fp32", 1), tmp_path / "run")
    assert any(name.startswith("state.ema.") for name in found)


def test_every_phase_is_a_point_that_runs_come_to(reference: Callable[[str, int], Reference]) -> None:
    hits = reference("fp16", 3).hits
    assert {phase for phase in PHASES if not hits.get(point_of(phase))} == set()
    assert hits.keys() <= points()


@pytest.mark.kill
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_phase_of_every_kind_is_exact(
    kind: tuple[str, int], reference: Callable[[str, int], Reference], tmp_path: Path
) -> None:
    cells = [(point_of(phase), 0.6) for phase in PHASES]
    cells += [(point_of(phase), 5.5 / 12) for phase in PHASES if PHASES[phase][0] == "Trainer.fit"]  # an epoch's edge
    all_exact(kind, cells, reference(*kind), tmp_path)


@pytest.mark.kill
def test_every_line_is_exact(reference: Callable[[str, int], Reference], tmp_path: Path) -> None:
    undisturbed = reference("fp16", 3)
    all_exact(("fp16", 3), [(point, 0.4) for point in sorted(undisturbed.hits)], undisturbed, tmp_path)


def all_exact(
    kind: tuple[str, int], cells: Sequence[tuple[Point, float]], undisturbed: Reference, folder: Path
) -> None:
    wrong = {}
    for number, (point, share) in enumerate(cells):
        if found := exact(kind, point, undisturbed, folder / str(number), share=share):
            wrong[f"{point}, {share:.0%} of the way"] = found
    print(f"{kind}: {len(cells) - len(wrong)} of {len(cells)} cells exact")
    assert len(cells) >= len(PHASES) and not wrong, wrong
