"""What is said of a sweep from its files, and which of its jobs are tried again."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plainloop.commands.sweep import main
from plainloop.errors import BadConfig
from plainloop.sweep import outcome, table
from plainloop.sweep.retry import choose
from tests.harness.configs import ROOT
from tests.harness.sweeps import status, sweep

WAYS = (
    {"reason": "nonfinite", "message": "step 7, learning rate 0.1: the loss is not a number", "exit_code": 71},
    {"reason": "data", "message": "/data/img_12.jpg cannot be decoded", "exit_code": 65},
    {"reason": "internal", "message": "KeyError: 'label'", "exit_code": 70},
)


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """100 jobs: 13 failed in 3 ways, 4 lost, 2 running, 3 stopped, 2 cancelled, 6 not started, 70 done."""
    rows: list[Any] = [status("DONE") for _ in range(70)] + [None] * 6
    for number in range(13):
        way = WAYS[0] if number < 8 else WAYS[1] if number < 12 else WAYS[2]
        said = str(way["message"]).replace("7", str(number))
        rows.insert(3 + 5 * number, status("FAILED", **(way | {"message": said})))
    rows += [status("LOST")] * 4 + [status("RUNNING")] * 2 + [status("PREEMPTED", exit_code=75)] * 3
    rows += [status("CANCELLED", exit_code=130)] * 2
    assert len(rows) == 100
    return sweep(tmp_path / "sweep", [([f"seed={n}", "optimizer=sgd"], row) for n, row in enumerate(rows)])


def test_exactly_the_failed_and_the_lost_are_tried_again(hundred: Path) -> None:
    rows = outcome.rows(hundred)
    chosen = choose(rows)
    assert len(chosen) == 17 and {row.state for row in chosen} == {"FAILED", "LOST"}
    assert len(choose(rows, lost=False)) == 13
    broken = [row for row in rows if row.state != "DONE"]  # what is not done is not what failed
    assert len(broken) == 30
    for row in chosen:  # once they run, nothing is left to try again
        (row.folder / "status.json").write_text(json.dumps(status("RUNNING")))
    assert choose(outcome.rows(hundred)) == []


@pytest.mark.parametrize(("number", "state"), [(0, "DONE"), (93, "RUNNING"), (100, "not a job of this sweep")])
def test_what_is_done_or_runs_is_not_tried_again_even_when_asked_for(hundred: Path, number: int, state: str) -> None:
    with pytest.raises(BadConfig, match=f"job {number} is {state}"):
        choose(outcome.rows(hundred), [number])


def test_equal_failures_are_told_once_with_their_number_and_the_first_job(hundred: Path) -> None:
    lines = table.failure_lines(outcome.rows(hundred))
    assert lines[0].startswith("8 FAILED: nonfinite: step 0, learning rate 0.1: the loss is not a number   (jobs 3, 8,")
    assert [line.split(":")[0] for line in lines] == ["8 FAILED", "4 FAILED", "1 FAILED", "4 LOST"]


def test_the_exit_code_is_that_of_the_worst_failure_and_a_stop_is_none(hundred: Path) -> None:
    rows = outcome.rows(hundred)
    assert outcome.worst([row for row in rows if row.state != "LOST" and row.state != "CANCELLED"]) == 71
    assert outcome.worst([row for row in rows if row.state in ("DONE", "PREEMPTED")]) == 75
    assert outcome.worst([row for row in rows if row.state == "DONE"]) == 0
    assert outcome.worst([]) == 0


def test_the_table_shows_only_what_varies(hundred: Path) -> None:
    cells = table.cells(outcome.rows(hundred))
    assert cells[0] == ("0", "seed=0", "DONE", "10/20", "val/top1 0.5", "1.0", "")
    assert cells[3][2:] == (
        "FAILED",
        "10/20",
        "",
        "1.0",
        "nonfinite: step 0, learning rate 0.1: the loss is not a number",
    )


def test_a_thousand_jobs_are_told_in_time_without_torch(tmp_path: Path) -> None:
    rows = [
        status(("DONE", "FAILED", "RUNNING", "LOST")[n % 4], **(WAYS[0] if n % 4 == 1 else {})) for n in range(1000)
    ]
    folder = sweep(tmp_path / "sweep", [([f"seed={n}"], row) for n, row in enumerate(rows)])
    watched = (
        "import runpy, sys, time, atexit\n"
        "atexit.register(lambda: sys.stderr.write(f'{time.process_time()} {\"torch\" in sys.modules}'))\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    typed = [sys.executable, "-c", watched, str(ROOT / "scripts/sweep.py"), "status", str(folder)]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=120, env=os.environ)
    seconds, torch = done.stderr.split()
    assert done.returncode == 0 and torch == "False"
    assert float(seconds) < 8  # of CPU; one on a machine with nothing else to do, and 140 if each job were composed
    assert "250 FAILED: nonfinite" in done.stdout and "(jobs 1, 5, 9," in done.stdout
    assert done.stdout.rstrip().endswith("250 DONE, 250 FAILED, 250 RUNNING, 250 LOST")


def test_results_are_the_same_as_csv_and_json_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    hostile = ["name==HYPERLINK(1)", "+x=@SUM(1)", "lr=-0.5", "tag=-2+3"]
    folder = sweep(
        tmp_path / "sweep", [(hostile, status("DONE")), (["lr=1"], status("FAILED", message="-cmd", reason=""))]
    )
    assert main(["collect", str(folder)]) == 0
    rows = json.loads((folder / "results.json").read_text())
    cells = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert [row["lr"] for row in rows] == ["-0.5", "1"] and rows[0]["val/loss"] == 1.0 and rows[1]["val/loss"] is None
    assert cells[0]["name"] == "'=HYPERLINK(1)" and cells[0]["x"] == "'@SUM(1)" and cells[0]["tag"] == "'-2+3"
    assert cells[0]["lr"] == "-0.5" and cells[1]["why"] == "'-cmd"
    assert rows[0]["name"] == "=HYPERLINK(1)"  # without the guard it would be the formula


def test_control_characters_do_not_reach_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(tmp_path / "sweep", [(["name=\x1b[2J"], status("FAILED", reason="data", message="a\x1b]0;x\x07b"))])
    (folder / "0" / "train.log").write_text("\x1b[31mred\n")
    assert main(["status", str(folder)]) == 0
    assert main(["logs", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\\x1b[31mred" in said


def test_a_sweep_that_was_torn_is_told_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(tmp_path / "sweep", [([f"seed={n}"], status("DONE")) for n in range(3)])
    whole = (folder / "jobs.jsonl").read_text()
    (folder / "jobs.jsonl").write_text(whole[:-20])
    assert main(["status", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "2 DONE" in shown.out
    assert shown.err.startswith(f"warning: 1 line of {folder}/jobs.jsonl cannot be read, with the jobs in it")
    (folder / "jobs.jsonl").write_text("no line of ours\n")
    assert main(["retry", str(folder)]) == 64
    assert "holds no job that can be read\nnext: type the sweep's command again" in capsys.readouterr().err


def test_a_number_that_is_no_job_and_a_jobs_own_folder_are_told_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path / "sweep", [([f"seed={n}"], status("DONE")) for n in range(3)])
    assert main(["logs", str(folder), "7"]) == 64
    assert capsys.readouterr().err == "job 7 is not a job of this sweep\nnext: they are 0 to 2\n"
    assert main(["status", str(folder / "1")]) == 64
    assert capsys.readouterr().err.endswith(f"next: give the folder of a sweep, such as {folder}\n")
    assert main(["status", str(tmp_path)]) == 64
    assert "has no jobs.jsonl: it is not the folder of a sweep" in capsys.readouterr().err
    (tmp_path / "config.yaml").touch()
    assert main(["status", str(tmp_path)]) == 64
    assert f"next: it is one run: type python scripts/report.py run={tmp_path}\n" in capsys.readouterr().err


def test_watching_ends_when_nothing_runs_or_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(tmp_path / "sweep", [(["seed=0"], status("DONE")), (["seed=1"], status("FAILED", reason="data"))])
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    assert main(["status", str(folder), "--watch", "60"]) == 0


STRANGE = {
    "state": ("status.json", {"state": {"a": 1}}, "state is {'a': 1}, expected one of PENDING"),
    "pid": ("status.json", status("RUNNING", pid="abc"), "pid is 'abc', expected int"),
    "best": ("summary.json", {"best": [1]}, "best is [1], expected dict | None"),
    "metric": ("summary.json", {"best": {"metric": 1, "value": 0.5, "step": 1}}, "in best, metric is 1, expected str"),
    "attempt": ("attempts.jsonl", {"started": 1.0}, "attempt is missing"),
    "heartbeat": ("status.json", status("FAILED", heartbeat=float("inf")), "heartbeat is inf, expected float"),
}


def test_a_row_says_what_is_wrong_with_its_job_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path / "sweep", [([f"seed={n}"], status("DONE")) for n in range(len(STRANGE) + 2)])
    for number, (name, content, _) in enumerate(STRANGE.values()):
        (folder / str(number) / name).write_text(json.dumps(content) + "\n")
    nested, best = '{"a": ' + "[" * 100_000, {"metric": "a\x1b]0;x\x07b", "value": 0.5, "step": 1}
    (folder / f"{len(STRANGE)}/status.json").write_text(nested)
    (folder / f"{len(STRANGE) + 1}/summary.json").write_text(json.dumps({"best": best}))
    with (folder / "jobs.jsonl").open("a") as file:
        file.writelines(
            f"{line}\n" for line in ('{"number": 1e400, "overrides": [], "folder": "9", "hash": ""}', nested)
        )
    for verb in ("status", "collect"):
        assert main([verb, str(folder)]) == 0
        said, told = capsys.readouterr()
        assert "\x1b" not in said and told.startswith("warning: 2 lines of")
        assert [row.state for row in outcome.rows(folder)] == ["FAILED"] * len(STRANGE) + ["RUNNING", "DONE"]
        shown = " ".join(said.split())
        assert [what for _, _, what in STRANGE.values() if what not in shown] == []
        assert "a\\x1b]0;x\\x07b 0.5" in shown
