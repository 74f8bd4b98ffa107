"""What a run leaves behind when a logger fails, when it stops early, and when its best weights are gone."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.loggers.console import Console
from plainloop.loggers.jsonl import read_rows
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.journal import Journal, attempt, end_in_log_file
from plainloop.run_dir.recorder import Recorder
from plainloop.run_dir.status import read_status
from plainloop.run_dir.weights import load_weights
from tests.harness.toys import ToyData, ToyNet, toy_state

FACTS = vars(ToyData.facts())
CONFIG: dict[str, Any] = {"facts": FACTS | {"class_names": list("abc")}, "plugins": []}


class Log:
    """A logger that notes what is asked of it, and fails where it is told to."""

    def __init__(self, said: list[str], name: str, *, fails: str = "") -> None:
        self.said, self.name, self.fails = said, name, fails

    def start(self, folder: Path, config: Any, step: int) -> None:
        self.note("start")

    def log(self, step: int, scalars: Any) -> None:
        self.note("log")

    def finish(self, summary: Any) -> None:
        self.note("finish")

    def note(self, what: str) -> None:
        if what == self.fails:
            raise OSError(f"{self.name} cannot {what}")
        self.said.append(f"{self.name} {what}")


def recorder(journal: Journal, *loggers: Any, state: Any = None) -> Recorder:
    console = Console(total_steps=12, steps_per_epoch=5, batch_size=8)
    checkpoints = Checkpoints(journal.folder / "checkpoints")
    state = state or toy_state()
    return Recorder(CONFIG, state, checkpoints, journal, loggers, console=console, total_steps=12, metric="val/top1")


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    journal = Journal(tmp_path)
    with journal.locked():
        yield journal


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_every_logger_finishes_whichever_fails(journal: Journal, failing: int) -> None:
    said: list[str] = []
    loggers = [Log(said, name, fails="finish" if n == failing else "") for n, name in enumerate("abc")]
    with recorder(journal, *loggers):
        said.clear()
    assert sorted(said) == [f"{name} finish" for n, name in enumerate("abc") if n != failing]
    assert json.loads((journal.folder / "summary.json").read_text())["steps"] == 0


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_logger_that_fails_ends_nothing_and_hides_no_other(journal: Journal, failing: int, caplog: Any) -> None:
    said: list[str] = []
    loggers = [Log(said, name, fails="log" if n == failing else "") for n, name in enumerate("abc")]
    with recorder(journal, *loggers) as one:
        said.clear()
        one.row(1, {"train/loss": 1.0}, best=False)
        one.row(2, {"train/loss": 0.5}, best=False)
        assert said == [f"{name} log" for n, name in enumerate("abc") if n != failing] * 2
    assert len(read_rows(journal.folder / "metrics.jsonl")) == 2
    assert caplog.text.count("the logger Log has failed (OSError: ") == 1


def test_loggers_that_have_started_finish_when_the_next_cannot_start(journal: Journal) -> None:
    said: list[str] = []
    with (
        pytest.raises(OSError, match="b cannot start"),
        recorder(journal, Log(said, "a"), Log(said, "b", fails="start")),
    ):
        pass
    assert said == ["a start", "a finish"]


def test_what_ended_the_run_is_raised_and_not_what_failed_after_it(journal: Journal, caplog: Any) -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError, match="it broke"), recorder(journal, Log(said, "a"), Log(said, "b")):
        raise fail_the_summary(journal.folder)
    assert said[-2:] == ["b finish", "a finish"]
    assert "after that, BadData: " in caplog.text


def fail_the_summary(folder: Path) -> RuntimeError:
    (folder / "metrics.jsonl").write_text("no row\n")
    return RuntimeError("it broke")


def test_an_early_stop_is_in_the_status_and_in_the_summary(tmp_path: Path) -> None:
    state = toy_state()
    with attempt(tmp_path) as journal, recorder(journal, state=state) as open_one:
        state.step, state.stopped_early = 7, "no better val/top1 for 3 evaluations"
    status = read_status(tmp_path)
    assert (status.state, status.reason, status.message) == ("DONE", "early_stop", state.stopped_early)
    assert (open_one.summary["stopped_early"], open_one.summary["steps"]) == (state.stopped_early, 7)


def test_best_weights_that_are_gone_come_back_from_their_checkpoint(journal: Journal) -> None:
    state = toy_state()
    state.step = state.best_step = 5
    state.best = 0.5
    with recorder(journal, state=state) as one:
        one.save(state, [], best=True, required=True)
    (journal.folder / "best.safetensors").rename(journal.folder / "kept.safetensors")
    with recorder(journal, state=state):
        pass
    first, second = ToyNet(), ToyNet()
    load_weights(first, journal.folder / "kept.safetensors")
    load_weights(second, journal.folder / "best.safetensors")
    assert all(torch.equal(one, two) for one, two in zip(first.state_dict().values(), second.state_dict().values()))


def test_without_their_checkpoint_the_next_evaluation_is_the_best(journal: Journal, caplog: Any) -> None:
    state = toy_state()
    state.best, state.best_step = 0.5, 3
    with recorder(journal, state=state):
        assert (state.best, state.best_step) == (None, None)
    assert "at step 3, are gone" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("it broke"), KeyboardInterrupt()], ids=["fails", "is stopped"])
def test_the_log_file_holds_what_ended_a_run_and_the_screen_is_left_to_the_command(
    tmp_path: Path, error: BaseException, capsys: Any
) -> None:
    handler = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(handler)
    try:
        with suppress(RuntimeError, KeyboardInterrupt), end_in_log_file(tmp_path):
            raise error
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    expected = "RuntimeError: it broke" if isinstance(error, RuntimeError) else f"python train.py resume={tmp_path}"
    assert (tmp_path / "train.log").read_text().splitlines()[-1] == expected
    assert capsys.readouterr() == ("", "")
