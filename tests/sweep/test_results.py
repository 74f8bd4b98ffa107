"""The table of one or several sweeps: what is read from their files, and what the commands say."""

from __future__ import annotations

import csv
import json
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest

from plainloop.commands.sweep import main
from plainloop.report.sweep import jobs as folding
from plainloop.report.sweep.jobs import Job, Table
from plainloop.sweep import outcome, results
from tests.harness.configs import checked
from tests.harness.sweeps import status, sweep

HOSTILE = "a\x1b[2Jb|<script>alert(1)</script>\n=1+1"


def made(folder: Path, jobs: Sequence[tuple[Sequence[str], float | None]], *, metric: str = "val/top1") -> Path:
    """A sweep of jobs with these results; one without a result has failed."""
    rows = [
        status("FAILED", reason="data", message="no such file") if value is None else status("DONE")
        for _, value in jobs
    ]
    sweep(folder, [(typed, row) for (typed, _), row in zip(jobs, rows, strict=True)])
    for number, (_, value) in enumerate(jobs):
        if value is not None:
            best = {"metric": metric, "value": value, "step": 10}
            summary = {"best": best, "final": {metric: value - 0.1, "val/loss": 1 - value}, "steps": 20}
            (folder / str(number) / "summary.json").write_text(json.dumps(summary))
    return folder


def read(*sweeps: Path) -> list[Job]:
    return results.read({one: outcome.rows(one) for one in sweeps})


def table(*sweeps: Path, metric: str | None = None) -> Table:
    found = read(*sweeps)
    return folding.fold(found, results.metric_of(found, metric))


GRID = [
    (("model=tiny", "optimizer.lr=0.1", "seed=0"), 0.50),
    (("model=tiny", "optimizer.lr=0.1", "seed=1"), 0.54),
    (("model=tiny", "optimizer.lr=0.2", "seed=0"), 0.60),
    (("model=tiny", "optimizer.lr=0.2", "seed=1"), 0.68),
    (("model=tiny", "optimizer.lr=0.4", "seed=0"), 0.70),
    (("model=tiny", "optimizer.lr=0.4", "seed=1"), None),
    (("model=tiny", "optimizer.lr=0.8", "seed=0"), None),
]


def test_a_table_has_what_differs_folds_seeds_and_begins_with_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", str(made(tmp_path / "s", GRID))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["lr", "val/top1", "sd", "n"],
        ["0.4", "0.7000", "-", "1/2"],
        ["0.2", "0.6400", "0.0566", "2"],
        ["0.1", "0.5200", "0.0283", "2"],
        ["0.8", "-", "-", "0/1"],
    ]
    assert lines[-2] == "not in the table: 2 FAILED, jobs 5, 6: data: no such file"
    assert lines.pop() == f"page: {tmp_path / 's' / 'sweep.html'}"
    assert max(map(len, lines)) <= 80


def test_a_metric_may_be_chosen_and_a_loss_is_better_when_it_is_smaller(tmp_path: Path) -> None:
    found = table(made(tmp_path / "s", GRID), metric="val/loss")
    assert found.metric.smaller
    assert [group.values[0] for group in found.groups] == ["0.4", "0.2", "0.1", "0.8"]
    saved = {"metric": "distance", "value": 3.0, "step": 1, "mode": "min"}
    other = made(tmp_path / "t", GRID)
    (other / "0" / "summary.json").write_text(json.dumps({"best": saved, "final": {}}))
    assert table(other, metric="distance").metric.smaller  # as the task said, whatever its name
    assert not table(other, metric="val/top1").metric.smaller


def test_the_last_evaluation_instead_of_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--last", str(made(tmp_path / "s", GRID))]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["0.4", "0.6000"]


def test_best_names_the_best_run_of_the_setting_with_the_best_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lucky = [*GRID[:4], (("model=tiny", "optimizer.lr=0.1", "seed=2"), 0.69)]  # the best of all, of a worse setting
    folder = made(tmp_path / "s", lucky)
    assert main(["table", "--best", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "best      optimizer.lr=0.2: val/top1 0.6400 ± 0.0566, n = 2"
    assert "second    optimizer.lr=0.1: 0.5767, a change of " in out and ": not distinguishable with n = 2" in out
    assert f"run       {folder}/3   (0.6800, the best of its 2)\n" in out
    assert f"weights   {folder}/3/best.safetensors\n" in out


def test_collect_prints_the_table_and_names_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "s", GRID)
    assert main(["collect", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.index("0.4") < out.index("0.2") < out.index("0.1")
    assert "2 FAILED: data: no such file   (jobs 5, 6)" in out
    assert f"weights   {folder}/4/best.safetensors" in out


def test_joined_sweeps_count_an_equal_config_once_and_fill_in_what_one_of_them_did_not_type(tmp_path: Path) -> None:
    first = made(tmp_path / "first", [(("seed=0",), None), (("seed=1",), 0.5)])
    second = made(tmp_path / "second", [(("optimizer.lr=0.001", "augment=none", "seed=0"), 0.6)])
    made_by = checked()
    for number in (0, 1):
        (first / str(number) / "config.yaml").write_text(json.dumps(made_by))
        (first / str(number) / ".hydra").mkdir()
        choices = {"hydra": {"runtime": {"choices": {"augment": "none"}}}}
        (first / str(number) / ".hydra" / "hydra.yaml").write_text(json.dumps(choices))
    line = json.loads((second / "jobs.jsonl").read_text())
    (second / "jobs.jsonl").write_text(json.dumps(line | {"hash": f"{0:016x}"}) + "\n")  # that of job 0 of the first
    found = read(first, second)
    assert [(job.name, job.results.get("best val/top1")) for job in found] == [("second/0", 0.6), ("first/1", 0.5)]
    assert folding.differing(found) == ()  # 0.001 and none are the defaults


def test_jobs_that_were_typed_alike_with_other_configs_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (made(tmp_path / name, [(("seed=0",), 0.5), (("seed=1",), 0.5)]) for name in ("first", "second"))
    (second / "jobs.jsonl").write_text((second / "jobs.jsonl").read_text().replace('"hash": "0', '"hash": "f'))
    assert main(["table", str(first), str(second)]) == 0
    told = "counted each: jobs first/0, first/1, second/0, second/1"
    assert told in " ".join(capsys.readouterr().out.split())


def test_jobs_of_one_sweep_are_all_there_also_where_their_configs_count_as_equal(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", [(("data.num_workers=0",), 0.5), (("data.num_workers=2",), 0.5)])
    lines = [json.loads(line) | {"hash": "same"} for line in (folder / "jobs.jsonl").read_text().splitlines()]
    (folder / "jobs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert len(table(folder).groups) == 2


@pytest.mark.parametrize("form", ["text", "markdown", "csv"])
def test_names_from_files_stay_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    jobs = [((f"name={HOSTILE}", "seed=0"), 0.5), (("name=b", "seed=0"), None), ((f"{HOSTILE}=1",), 0.4)]
    folder = made(tmp_path / "s", jobs, metric="val/top1")
    assert main(["table", "--format", form, str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    if form == "csv":
        assert all(not cell.startswith("=") for row in csv.reader(out.splitlines()) for cell in row)
    if form == "markdown":
        rows = [line for line in out.splitlines() if line.startswith("|")]
        assert len(rows) == 2 + 3 and "<script" not in out
        assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (["table", "{sweep}", "--metric", "val/top5"], 64, "type one of val/loss, val/top1"),
        (["compare", "{sweep}", "--factor", "model"], 64, "type one of optimizer.lr"),
        (["compare", "{sweep}", "--factor", "seed"], 64, "seed is what a setting is repeated over"),
        (["compare", "{sweep}", "--factor", "modle"], 64, "no key that differs has this name"),
        (["compare", "{sweep}", "--factor", "lr", "--baseline", "0.3"], 64, "type one of 0.1 0.2 0.4 0.8"),
        (["compare", "{sweep}", "--baseline", "0.1"], 64, "add --factor optimizer.lr"),
        (["table", "{sweep}/0"], 64, "give the folder of a sweep, such as {sweep}"),
        (["table", "{empty}"], 64, "nothing to compare yet"),
        (["compare", "{seeds}"], 64, "there is no factor to compare"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_with_what_to_type_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], code: int, said: str
) -> None:
    names = {
        "sweep": made(tmp_path / "s", GRID),
        "empty": made(tmp_path / "e", [(("lr=1",), None)]),
        "seeds": made(tmp_path / "d", [((f"seed={n}",), 0.5) for n in range(2)]),
    }
    assert main([word.format(**names) for word in wrong]) == code
    assert said.format(**names) in capsys.readouterr().err


def test_compare_prints_all_factors_within_80_columns_and_what_several_intervals_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(augment: str, lr: str, seed: int) -> float:
        return 0.5 + seed / 100 + 0.1 * (augment != "none") * (1 + seed / 50) + seed * (lr == "0.2") / 70

    typed = [
        (a, lr, s)
        for a in ("[crop_flip,mixup_or_cutmix,randaugment]", "none")
        for lr in ("0.1", "0.2")
        for s in range(3)
    ]
    jobs = [((f"augment={a}", f"optimizer.lr={lr}", f"seed={s}"), score(a, lr, s)) for a, lr, s in typed]
    folder = made(tmp_path / "s", jobs)
    assert main(["compare", str(folder)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "augment, compared with none: change of val/top1" in out
    assert "+0.1020 +0.0970 to +0.1070 better" in " ".join(out.split())
    assert "not distinguishable with n = 3" in out
    assert "paired over 3 seeds; in each, the mean over 2 settings" in out
    assert "2 intervals of 95 %: among 20 such intervals one does not hold the true change." in out
    assert main(["compare", str(folder), "--factor", "lr", "--format", "markdown"]) == 0
    assert "| 0.2 | +0.0143 | " in capsys.readouterr().out


def test_a_table_of_a_thousand_jobs_takes_less_than_five_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        ((f"a={a}", f"b={b}", f"seed={s}"), a / 100 + s / 1000) for a in range(50) for b in range(4) for s in range(5)
    ]
    folder = made(tmp_path / "s", jobs)
    began = resource.getrusage(resource.RUSAGE_SELF)
    assert main(["table", str(folder)]) == 0
    ended = resource.getrusage(resource.RUSAGE_SELF)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 5.0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 200 + 2 + 1
