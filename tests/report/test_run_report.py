"""report.html of a run: what it says follows from the run's files, and whose ever they are, they stay text."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainloop.commands.report import main
from plainloop.report.run.page import page, write_report
from plainloop.report.run.read import read_run
from plainloop.report.run.results import classes_of
from plainloop.report.run.spent import parts_of, verdict
from tests.harness import runs
from tests.harness.reported import HOSTILE, run_folder


def test_the_parts_of_the_time_add_up_to_the_run(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    parts = {part.name: part.seconds for part in parts_of(run)}
    steps = run.rows[-1]["step"]
    assert parts["waiting for data"] == pytest.approx(0.004 * steps)
    assert parts["forward and backward"] == pytest.approx(0.003 * steps)
    assert parts["evaluation"] == pytest.approx(5 * 0.01)
    start, end = run.attempts[0]["started"], run.attempts[-1]["ended"]
    accounted = 0.01 * steps + 5 * 0.01 + 10 * 0.001
    assert sum(parts.values()) == pytest.approx(max(accounted, end - start))
    assert sum(part.share for part in parts_of(run)) == pytest.approx(1)


def test_a_run_that_waits_for_data_is_told_so(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    assert verdict(run, parts_of(run)).startswith("The loader is the limit: 40% of a step")
    quick = [{**row, "time/data_s": 0.0001} for row in run.rows]
    other = type(run)(**{**vars(run), "rows": quick})
    assert verdict(other, parts_of(other)).startswith("The model is the limit: 99%")


def test_the_sentence_about_saving_has_the_share_of_the_table(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    slow = [{**row, "time/data_s": 0.0, "time/save_s": 1.0} for row in run.rows]
    attempts = [{"attempt": 1, "started": 0.0}, {"attempt": 1, "ended": 25.0}]  # it took its time to begin
    parts = parts_of(other := type(run)(**{**vars(run), "rows": slow, "attempts": attempts}))
    share = next(part.share for part in parts if part.name == "saving")
    assert verdict(other, parts).startswith(f"Saving takes {share:.0%} of the time")


def test_losses_whose_difference_is_infinite_do_not_stop_the_page(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    huge = [{**row, "train/loss": 1.7e308, "val/loss": -1.7e308} for row in run.rows]
    assert 'id="curves"' in page(type(run)(**{**vars(run), "rows": huge}))


def test_a_run_that_never_evaluates_speaks_of_no_best_evaluation(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    assert "A dashed line" in page(run)
    (run.folder / "checkpoints" / "best.json").unlink()
    rows = [{key: value for key, value in row.items() if not key.startswith("val/")} for row in run.rows]
    text = page(type(run)(**{**vars(run), "rows": rows, "summary": {"best": None}}))
    assert "No evaluation</span>" in text
    assert "A dashed line" not in text


def test_the_matrix_counts_each_label_and_prediction(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    assert run.evaluation is not None
    classes = classes_of(run, run.evaluation)
    assert classes is not None and classes.matrix is not None
    label, prediction = (run.evaluation.column(name).astype(int) for name in ("label", "prediction"))
    for i, row in enumerate(classes.matrix):
        assert [count for count, _ in row] == [int(np.sum((label == i) & (prediction == j))) for j in range(len(row))]


def test_names_and_paths_stay_text(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a<b>'\"&", names=[HOSTILE])
    text = page(read_run(folder))
    assert HOSTILE not in text
    assert html.escape(HOSTILE, quote=True).replace("&#x27;", "&#39;") in text
    assert len(re.findall(r"<script", text)) == 2
    assert json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def test_it_asks_nothing_of_a_network(tmp_path: Path) -> None:
    text = page(read_run(run_folder(tmp_path / "run")))
    assert "default-src 'none'" in text
    assert set(re.findall(r'(?:src|href)="(\w+:)', text)) == {"data:"}


def test_a_hundred_epochs_are_small(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", epochs=100, rows_per_epoch=90)
    assert write_report(folder).stat().st_size < 3e6


@pytest.mark.parametrize("missing", ["summary.json", "evaluation", "metrics.jsonl", "environment.json", "status.json"])
def test_a_run_that_has_not_got_so_far_has_a_report(missing: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / missing).rename(tmp_path / "gone")
    assert "Where the time went" in page(read_run(folder)) or missing == "metrics.jsonl"


def test_the_command_writes_it_or_says_what_is_wrong(tmp_path: Path, capsys: Any) -> None:
    folder = run_folder(tmp_path / "run")
    assert main([f"run={folder}"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert main([f"run={tmp_path}"]) == 64
    assert (
        f"{tmp_path} holds 1 run and is none itself: run\nnext: type one of them: {folder}" in capsys.readouterr().err
    )
    assert main([f"run={tmp_path / 'nowhere'}"]) == 64
    assert "nowhere does not exist; expected a run directory" in capsys.readouterr().err


def test_an_evaluation_that_cannot_be_read_is_left_out_and_the_report_says_so(tmp_path: Path, capsys: Any) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "evaluation" / "results.json").write_text('{"split": 1}')
    place = tmp_path / "no such folder" / "report.html"
    assert main([f"run={folder}", "--out", str(place)]) == 0
    warned = capsys.readouterr().err
    assert "warning: it lacks the best evaluation" in warned and "results.json was not written by a run" in warned
    text = html.unescape(place.read_text())
    assert "It is left out: " in text and "results.json was not written by a run" in text
    assert "What is taken for what" not in text
    assert "What is taken for what" in page(read_run(run_folder(tmp_path / "whole")))


@pytest.mark.parametrize(("words", "there"), [([], True), (["report=never"], False)])
def test_a_single_run_ends_with_a_report_unless_told_otherwise(words: list[str], there: bool, tmp_path: Path) -> None:
    small = [word for word in runs.SMALL if not word.startswith("report")]
    ended = runs.train(tmp_path, *small, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    assert (tmp_path / "run" / "report.html").exists() is there


def test_the_page_says_what_is_of_masks_where_boxes_are_measured_as_well(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run"))
    best = run.best()
    assert best is not None
    both = [row | ({"val/box_top1": 0.321 + (row["step"] != best[0])} if "val/top1" in row else {}) for row in run.rows]
    told = html.unescape(page(type(run)(**{**vars(run), "rows": both})))
    assert "top1 of masks</span>" in told and "<dt>top1 of boxes</dt><dd>0.3210</dd>" in told
    assert "<figcaption>top1 of masks <" in told and "<figcaption>top1 of boxes <" in told
    assert "of masks" not in page(run) and "of boxes" not in page(run)
