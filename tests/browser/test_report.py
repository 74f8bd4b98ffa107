"""The report in headless Chromium: it opens quickly, answers to the pointer, and runs nobody else's script."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from plainloop.report.run.page import write_report
from tests.harness.reported import HOSTILE, run_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.browser

# What a person would do, and what a person would see of it.
POINT = """
<script>
const svg = document.querySelector(".chart svg"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2}));
const said = document.documentElement.dataset, values = Array.from(document.querySelectorAll(".legend b"));
said.shown = values.map(value => value.textContent).join("|");
said.read = document.querySelector(".read").textContent;
said.wide = document.documentElement.scrollWidth > window.innerWidth;
addEventListener("load", () => { said.ms = Math.round(performance.now()); });
</script>
"""


def opened(path: Path, tmp_path: Path, *, width: int = 1280) -> str:
    """The document after its scripts have run."""
    assert CHROMIUM, "no chromium here; on Debian: apt-get install chromium"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *flags, f"--window-size={width},1000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = run_folder(tmp_path / "run", epochs=100, rows_per_epoch=90, names=[HOSTILE])
    path = write_report(folder)
    path.write_text(path.read_text().replace("</body>", POINT + "</body>"))
    return path


def test_curves_answer_to_the_pointer(report: Path, tmp_path: Path) -> None:
    document = opened(report, tmp_path)
    shown = re.search(r'data-shown="([^"]*)"', document)
    assert shown and all(shown[1].split("|")), document[:2000]
    assert re.search(r'data-read="epoch 4\d', document)


def test_a_report_of_a_hundred_epochs_opens_in_a_second(report: Path, tmp_path: Path) -> None:
    found = re.search(r'data-ms="(\d+)"', opened(report, tmp_path))
    assert found and int(found[1]) < 1000


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_page(report: Path, tmp_path: Path, width: int) -> None:
    assert 'data-wide="false"' in opened(report, tmp_path, width=width)


def test_the_name_of_a_class_runs_no_script(report: Path, tmp_path: Path) -> None:
    document = opened(report, tmp_path)
    assert "<title>bad</title>" not in document
    assert "&lt;/script&gt;&lt;script&gt;" in document


def test_a_name_that_is_not_escaped_would_run(report: Path, tmp_path: Path) -> None:
    """The control: the page itself would let such a script run."""
    report.write_text(report.read_text().replace("</body>", HOSTILE.removeprefix("</script>") + "</body>"))
    assert "<title>bad</title>" in opened(report, tmp_path)
