"""After every kind of death: the exit code, what status.json says, and that the same command goes on exactly."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.errors import BadData
from plainloop.run_dir.status import read_status
from tests.harness import inject
from tests.harness.runs import SMALL, TASKS, differences, files, remains, start, train

RUN = (*SMALL, "hydra.run.dir=run")


@dataclass(frozen=True)
class Death:
    prepare: Callable[[], Any]
    code: int
    state: str
    reason: str
    step: int  # finished steps that the run knows of
    checkpoint: str = ""
    hint: str = "python train.py resume="
    replay: bool = False  # the same bytes lead to the same end


SAVED = "step_00000005.pt"
STOPPED = ("PREEMPTED", "preempted")
DEATHS = {
    "finish": Death(lambda: None, 0, "DONE", "", 10, "step_00000010.pt", hint=""),
    "bad data": Death(
        inject.failing_data(BadData("a.png is torn", hint="fetch it again")), 65, "FAILED", "data", 0, hint="fetch"
    ),
    "NaN in the images": Death(
        inject.poisoned_images(4), 71, "FAILED", "nonfinite", 2, "step_00000002.pt", hint="replay_step.py"
    ),
    "SIGKILL": Death(inject.at_step(6, inject.send(signal.SIGKILL)), -9, "LOST", "killed", 5, SAVED),
    "SIGTERM": Death(inject.at_step(6, inject.send(signal.SIGTERM)), 75, *STOPPED, 6, "step_00000006.pt"),
    "SIGINT twice": Death(
        inject.at_step(6, inject.send(signal.SIGINT, signal.SIGINT)), 130, "CANCELLED", "interrupted", 5, SAVED
    ),
    "out of memory": Death(
        inject.at_step(6, inject.fail(torch.OutOfMemoryError("tried to allocate 2 GiB"))),
        *(70, "FAILED", "out_of_memory", 5, SAVED),
        hint="trainer.accumulate=2",
    ),
    "a mistake of ours": Death(
        inject.at_step(6, inject.fail(ZeroDivisionError("of all things"))),
        *(70, "FAILED", "internal", 5, SAVED),
        hint="ZeroDivisionError: of all things",
    ),
}


OF_TASK = {
    "classification": tuple(DEATHS),
    "segmentation": ("NaN in the images", "SIGKILL", "SIGTERM"),
    "detection": ("NaN in the images",),  # the signals, at any moment, are tried elsewhere
}


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in TASKS for name in OF_TASK[task]])
def test_a_death_is_told_truly_and_the_same_command_goes_on(
    task: str, name: str, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    death, run = DEATHS[name], tmp_path / "run"
    ended = train(tmp_path, *RUN, *TASKS[task], prepare=death.prepare)
    told = read_status(run)
    assert (ended.code, told.state, told.reason) == (death.code, death.state, death.reason), ended.err
    assert told.checkpoint == death.checkpoint
    assert death.checkpoint == "" or (run / "checkpoints" / death.checkpoint).exists()
    assert death.hint in told.hint + told.message
    # What was stopped knows its step; else the heartbeat is a second old at most.
    assert told.step == death.step if told.state == "PREEMPTED" else told.step <= death.step
    assert told.exit_code == (None if death.code < 0 else death.code)
    again = train(tmp_path, *RUN, *TASKS[task])
    assert again.code == 0, again.err
    assert differences(undisturbed(*TASKS[task]), remains(run)) == []


def test_a_start_in_a_held_directory_says_by_whom_and_changes_nothing(tmp_path: Path) -> None:
    go = tmp_path / "go"
    holder = start(tmp_path, *RUN, prepare=inject.at_step(4, inject.wait_for(go)))
    try:
        assert holder.until(go.with_suffix(".here").exists)
        before = files(tmp_path / "run")
        ended = train(tmp_path, *RUN)
        assert ended.code == 69
        assert f"pid {holder.pid} on " in ended.err and " since " in ended.err
        after = files(tmp_path / "run")
        assert {name for name in before | after if before.get(name) != after.get(name)} <= {"train.log"}
        assert read_status(tmp_path / "run").state == "RUNNING"
    finally:
        go.touch()
        assert holder.wait().code == 0


@pytest.mark.parametrize("part", inject.PARTS)
def test_a_number_gone_bad_anywhere_is_never_saved(
    part: str, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    command = (*RUN, "trainer.ema_decay=0.9", "trainer.eval_every=4st")
    ended = train(tmp_path, *command, prepare=inject.poisoned(part, 4))
    assert (ended.code, read_status(tmp_path / "run").reason) == (71, "nonfinite"), ended.err
    (left,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    assert left.name == "step_00000002.pt"
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_nothing_to_resume_from_is_an_error_that_lists_every_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, *RUN, prepare=DEATHS["SIGKILL"].prepare)
    saved = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    for path in saved:
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):  # it does not become a new run by being asked again
        ended = train(tmp_path, *RUN)
        assert (ended.code, read_status(tmp_path / "run").reason) == (66, "unresumable")
        assert all(path.name in ended.err for path in saved)


def test_three_deaths_at_one_step_are_enough(tmp_path: Path) -> None:
    """A crash loop: step 7 always fails. The fourth start says so; the one after that is allowed three more."""
    broken = inject.at_step(7, inject.fail(RuntimeError("step 7 always fails")))
    codes = [train(tmp_path, *RUN, "trainer.save_every=3st", prepare=broken).code for _ in range(5)]
    # The first of them left newer steps.
    assert codes == [70, 70, 70, 70, 72] or codes == [70, 70, 70, 72, 70]
