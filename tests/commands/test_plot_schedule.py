"""Schedules in one picture: the rates that a run uses, and what train.py's check would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from plainloop.commands.plot_schedule import main
from plainloop.report.schedules import as_text, curve_of
from tests.harness.commands import passed
from tests.harness.runs import SMALL, lines, train


def test_the_rates_are_those_that_a_run_logs(tmp_path: Path) -> None:
    typed = (*SMALL, "scheduler=cosine_warmup", "trainer.log_every=1", "trainer.eval_every=never")
    scaled = ("trainer.lr_scaling.rule=linear", "trainer.lr_scaling.base_batch_size=60")
    ended = train(tmp_path, *typed[:-3], "scheduler=cosine_warmup", *typed[-2:], *scaled, "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    curve = curve_of("", passed(*SMALL[:-2], *typed[-3:], "optimizer=sgd", *scaled).config)
    logged = [row["train/lr"] for row in lines(tmp_path / "run" / "metrics.jsonl")]
    assert logged == [curve.rate(step) for step in range(10)]
    assert max(logged) == pytest.approx(0.4)  # sgd's 0.1 for 60 images, four times as much for 240


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_several_schedules_in_one_picture_and_in_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / "new" / f"schedules{suffix}"
    assert main(["scheduler=multistep,onecycle", "optimizer=sgd", "trainer.duration=1000ep", "--out", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown[:-1])) <= 80  # the last line is the path
    assert [line for line in shown if ": first" in line] == [
        "scheduler=multistep: first 0.100, highest 0.100, last 0.00100",
        "scheduler=onecycle: first 0.00400, highest 0.100, last 4.00e-7",
    ]
    assert shown[-1] == str(out)
    if suffix == ".png":
        assert Image.open(out).size == (1200, 900)
    else:
        assert all(name in out.read_text() for name in ("scheduler=multistep", "scheduler=onecycle", "momentum"))


def test_curves_of_several_lengths_share_their_scales() -> None:
    typed = ("scheduler=constant", "optimizer=sgd")
    curves = [curve_of(text, passed(*typed, text).config) for text in ("trainer.duration=5ep", "trainer.duration=10ep")]
    rows = list(as_text(curves))
    assert [row.count("█") for row in (rows[1], rows[7])] == [32, 64]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["scheduler=cosin"], "type instead: scheduler=cosine\n"),
        (
            ["scheduler=step,cosine", "scheduler.warmup=5"],
            "type instead: scheduler.warmup=5ep, or scheduler.warmup=5st",
        ),
        (["scheduler=cosine", "--out", "x.jpg"], "--out x.jpg must end in .png or .svg"),
        (["seed=range(0,11)"], "this would draw 11 curves"),
        (["--epochs", "5"], "type instead: trainer.duration=5ep"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_as_train_py_tells_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(typed) == 64
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
