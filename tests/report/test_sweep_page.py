"""sweep.html: all settings and drawings in one file, and names from files that stay text."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
from pathlib import Path

import pytest

from plainloop.report.figures import NUM_COLOURS, Axis, Curve, curves, intervals
from plainloop.report.page import COLOURS, DARK_COLOURS, page
from plainloop.report.sweep.jobs import Job, Metric, fold
from plainloop.report.sweep.page import MOST_CURVES, as_html

METRIC = Metric("val/top1", "best", smaller=False)
HOSTILE = '"><script>alert(1)</script><img src=http://x.example/a.png>\x1b]0;x\x07'


def jobs_of(folder: Path, *, augments: tuple[str, ...] = ("none", "flip"), rates: int = 3, seeds: int = 3) -> list[Job]:
    jobs = []
    for number, (augment, rate, seed) in enumerate(itertools.product(augments, range(rates), range(seeds))):
        place = folder / str(number)
        place.mkdir(parents=True)
        rows = [
            {"step": step, "epoch": step / 10, "val/top1": step / 100, "train/loss": 2 / step}
            for step in range(10, 60, 10)
        ]
        (place / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        values = {"augment": augment, "optimizer.lr": str(0.001 * 10**rate), "seed": str(seed)}
        score = 0.5 + 0.1 * (augment != "none") + seed / 100 + rate / 50
        failed = number == 4
        results = {} if failed else {"best val/top1": score}
        jobs.append(
            Job(str(number), values, "FAILED" if failed else "DONE", place, results, why=HOSTILE if failed else "")
        )
    return jobs


class Parsed(html.parser.HTMLParser):
    """Tags and their attributes, and which are open at the end."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_the_page_has_all_settings_drawings_and_what_is_missing(tmp_path: Path) -> None:
    table = fold(jobs_of(tmp_path), METRIC)
    markup = as_html(table, title="Sweep a", command="python scripts/sweep.py table a")
    found = Parsed(markup)
    assert found.count("svg") == 1 + 2 + 2  # settings, two curves, two factors
    assert found.count("tr") == (1 + 6) + (1 + 1)  # all settings; the job that failed
    assert found.count("polyline") == 6 + 17 + 17  # a line a setting; a curve for each job that is done
    assert "Not in the table: 1 jobs" in found.words and "python scripts/sweep.py table a" in found.words
    assert "not distinguishable" not in found.words.split("All settings")[1].split("What each")[0]


@pytest.mark.parametrize("rates", [1, 3])
def test_names_from_files_stay_text_and_nothing_is_fetched(tmp_path: Path, rates: int) -> None:
    table = fold(jobs_of(tmp_path, augments=(HOSTILE, "none", "flip"), rates=rates), METRIC)
    markup = as_html(table, title=HOSTILE, command=HOSTILE)
    found = Parsed(markup)
    assert found.count("script") == found.count("img") == found.count("link") == 0
    assert not [
        name for _, attributes in found.tags for name in attributes if name in ("src", "href") or name.startswith("on")
    ]
    assert "\x1b" not in markup and HOSTILE.partition("\x1b")[0] in found.words
    assert "default-src 'none'" in markup and "script-src" not in markup


def test_a_page_runs_its_own_script_and_no_other() -> None:
    markup = page("a", "", script="let x = 1")
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", markup)
    assert "'unsafe-inline'" not in markup.split("script-src")[1].split(";")[0]


def test_only_so_many_logs_are_read(tmp_path: Path) -> None:
    table = fold(jobs_of(tmp_path, rates=14), METRIC)
    found = Parsed(as_html(table, title="a", command=""))
    assert found.count("polyline") == 28 + 2 * MOST_CURVES


def test_curves_that_are_no_numbers_are_left_out() -> None:
    drawing = curves(
        [Curve("a", [(0, 1.0), (1, float("nan")), (2, 3.0)], 0), Curve("b", [(0, float("inf"))])], x="epoch"
    )
    assert "nan" not in drawing and "inf" not in drawing


def test_an_interval_that_holds_zero_is_grey() -> None:
    clear, unclear = (intervals([("flip", 0.1, low, 0.3)], x="") for low in (0.05, -0.05))
    assert "var(--c0)" in clear and "var(--c0)" not in unclear


def test_each_colour_has_one_for_dark_screens() -> None:
    assert len(COLOURS) == len(DARK_COLOURS) == NUM_COLOURS


@pytest.mark.parametrize(
    "axis", [Axis(0.0, 1.0, 0, 1), Axis(-3.2e-4, 7e-4, 0, 1), Axis(12.0, 9e6, 0, 1), Axis(1e-5, 1.0, 0, 1, log=True)]
)
def test_ticks_lie_inside_and_are_few(axis: Axis) -> None:
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(-1e-9 <= axis(tick) <= 1 + 1e-9 for tick in ticks)
