from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from plainloop.errors import NoProgress
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.status import read_status
from plainloop.system import storage
from tests.harness.children import Child, at_work, killed_at_work


@contextmanager
def at_step_40(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder)
    with journal.locked():
        journal.begin(0, 100)
        journal.running(40, 100, checkpoint="step_00000030.pt")
        yield journal


def train(folder: Path, ready: Callable[[], None]) -> None:
    with at_step_40(folder):
        ready()
        time.sleep(60)


def start_up(folder: Path, ready: Callable[[], None]) -> None:
    with Journal(folder).locked():
        ready()
        time.sleep(60)


def leave_without_a_word(folder: Path, ready: Callable[[], None]) -> None:
    with at_step_40(folder):
        pass
    ready()
    time.sleep(60)


def finished(folder: Path) -> None:
    def life() -> None:
        with at_step_40(folder) as journal:
            journal.end("DONE", reason="", exit_code=0)

    assert Child(life).wait().code == 0


def change(folder: Path, **values: Any) -> None:
    row = json.loads((folder / "status.json").read_text())
    storage.write_json(folder / "status.json", {**row, **values})


def killed(folder: Path) -> None:
    killed_at_work(train, folder)


def killed_in_start_up(folder: Path) -> None:
    killed_at_work(start_up, folder)


def killed_and_not_yet_buried(folder: Path) -> None:
    with at_work(train, folder) as child:
        child.kill(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert read_status(folder).reason == "killed"
    killed_at_work(train, folder)


def machine_restarted(folder: Path) -> None:
    killed_at_work(train, folder)
    change(folder, boot_id="another boot")


def power_cut(folder: Path) -> None:
    """On another machine, whose processes cannot be seen, eleven minutes ago."""
    killed_at_work(train, folder)
    change(folder, host="node17", heartbeat=time.time() - 660)


def status_torn(folder: Path) -> None:
    killed_at_work(train, folder)
    (folder / "status.json").write_bytes(b'{"state": "RUN')


def status_empty_after_done(folder: Path) -> None:
    finished(folder)
    (folder / "status.json").write_bytes(b"")


def killed_between_its_last_two_writes(folder: Path) -> None:
    finished(folder)
    change(folder, state="RUNNING")


def number_given_to_another(folder: Path) -> None:
    killed_at_work(train, folder)
    change(folder, pid=os.getpid())


DEATHS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "never started": (lambda folder: None, "PENDING", ""),
    "finished": (finished, "DONE", ""),
    "SIGKILL": (killed, "LOST", "killed"),
    "SIGKILL, a zombie": (killed_and_not_yet_buried, "LOST", "killed"),
    "SIGKILL in start-up": (killed_in_start_up, "LOST", "killed"),
    "process number given to another": (number_given_to_another, "LOST", "killed"),
    "machine restarted": (machine_restarted, "LOST", "restarted"),
    "power cut elsewhere": (power_cut, "LOST", "stale"),
    "power cut, status torn": (status_torn, "LOST", "killed"),
    "done, status lost": (status_empty_after_done, "DONE", ""),
    "done, killed before it was in the status": (killed_between_its_last_two_writes, "DONE", ""),
}


@pytest.mark.parametrize("death", DEATHS)
def test_the_status_tells_the_truth_after(death: str, tmp_path: Path) -> None:
    die, state, reason = DEATHS[death]
    die(tmp_path)
    status = read_status(tmp_path)
    assert (status.state, status.reason) == (state, reason)
    if state not in ("PENDING", "DONE"):
        assert status.hint
    if state not in ("PENDING",) and "start-up" not in death and "status" not in death:
        assert (status.step, status.total, status.checkpoint) == (40, 100, "step_00000030.pt")


@pytest.mark.parametrize("death", ["SIGKILL", "machine restarted", "power cut elsewhere"])
def test_believing_the_file_alone_would_be_wrong(death: str, tmp_path: Path) -> None:
    DEATHS[death][0](tmp_path)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "RUNNING"


def test_who_trains_is_running_and_who_hangs_is_lost(tmp_path: Path) -> None:
    with at_work(train, tmp_path) as child:
        assert read_status(tmp_path).state == "RUNNING"
        child.kill(signal.SIGSTOP)
        time.sleep(0.2)
        assert asdict(read_status(tmp_path, stale_after=0.1)).items() >= {"state": "LOST", "reason": "stale"}.items()


def test_who_trains_elsewhere_is_running_while_its_heart_beats(tmp_path: Path) -> None:
    killed_at_work(train, tmp_path)
    change(tmp_path, host="node17", heartbeat=time.time() - 5)
    assert read_status(tmp_path).state == "RUNNING"


def test_who_lives_on_without_its_lock_does_not_train(tmp_path: Path) -> None:
    with at_work(leave_without_a_word, tmp_path):
        assert read_status(tmp_path).state == "LOST"


def test_a_new_start_is_running_from_its_first_moment(tmp_path: Path) -> None:
    killed_at_work(train, tmp_path)
    with at_work(start_up, tmp_path):
        status = read_status(tmp_path)
    assert (status.state, status.attempt, status.step) == ("RUNNING", 2, 40)


def test_a_heartbeat_is_no_faster_than_one_a_second(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.locked():
        journal.begin(0, 100)
        for step in range(50):
            journal.running(step, 100)
        assert read_status(tmp_path).step == 0
        journal.running(50, 100, checkpoint="step_00000050.pt")
        assert read_status(tmp_path).step == 50


def attempt(folder: Path, step: int, end: tuple[str, str] | None) -> None:
    """One that starts at a durable step, and ends so, or is killed."""
    journal = Journal(folder)
    with journal.locked():
        try:
            journal.begin(step, 100)
        except NoProgress as error:
            journal.end("FAILED", reason=error.reason, hint=error.hint, exit_code=error.code)
            raise
        if end:
            journal.end(end[0], reason=end[1], exit_code=70)


def test_the_fourth_attempt_without_progress_is_refused_and_the_fifth_is_a_new_chance(tmp_path: Path) -> None:
    for end in (("FAILED", "internal"), None, ("FAILED", "internal")):
        attempt(tmp_path, 7, end)
    with pytest.raises(
        NoProgress, match="3 attempts in a row ended without getting past step 7: attempt 1 internal, attempt 2 killed"
    ):
        attempt(tmp_path, 7, None)
    assert (read_status(tmp_path).state, read_status(tmp_path).reason) == ("FAILED", "no_progress")
    assert read_status(tmp_path).exit_code == 72
    attempt(tmp_path, 7, None)
    attempt(tmp_path, 7, None)
    attempt(tmp_path, 7, None)
    with pytest.raises(NoProgress):
        attempt(tmp_path, 7, None)


@pytest.mark.parametrize("asked", [("PREEMPTED", "preempted"), ("CANCELLED", "interrupted"), ("DONE", "")])
def test_attempts_that_were_asked_to_stop_are_no_failures(tmp_path: Path, asked: tuple[str, str]) -> None:
    for end in (None, None, asked, None, None):
        attempt(tmp_path, 7, end)
    attempt(tmp_path, 7, asked)


def test_attempts_with_progress_or_after_going_back_are_no_failures(tmp_path: Path) -> None:
    for step in (0, 0, 0, 5, 5, 5, 3):  # the last has gone back to an earlier checkpoint
        attempt(tmp_path, step, None)
    assert [line["attempt"] for line in storage.read_lines(tmp_path / "attempts.jsonl")] == [1, 2, 3, 4, 5, 6, 7]


def test_secrets_on_the_command_line_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "+logger.api_key=0123456789abcdef"])
    attempt(tmp_path, 0, None)
    assert "0123456789abcdef" not in (tmp_path / "attempts.jsonl").read_text()


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    Journal(tmp_path).event("nonfinite", loss=float("nan"), lr=0.1)
    assert storage.read_lines(tmp_path / "events.jsonl")[0].items() >= {"loss": None, "lr": 0.1}.items()
