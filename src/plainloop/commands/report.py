"""scripts/report.py: report.html of a run, whether it trains, has ended or died."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from plainloop.commands.composed import answer, take_word
from plainloop.errors import BadConfig, printable

EXAMPLES = """examples:
  python scripts/report.py run=outputs/train/2026-01-31_12-00-00-000000
  python scripts/report.py run=outputs/a/1,outputs/a/2
  python scripts/report.py run=outputs/train/2026-01-31_12-00-00-000000 --out /tmp/report.html
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="report.py",
        usage="python scripts/report.py run=<run dir>[,<run dir>...] [--out <file>]",
        description="Writes report.html into a run's folder, from the files that the run has written so far.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, help="the file to write instead; for one run")
    options, words = parser.parse_known_args(argv)
    return answer(lambda: report(words, options.out))


def report(words: list[str], out: Path | None) -> int:
    given = take_word("run", words)
    if words or not given:
        what = f"report.py does not know {words[0]!r}" if words else "no run is given"
        raise BadConfig(what, hint="type python scripts/report.py run=<run dir>")
    folders = [Path(given)] if Path(given).is_dir() else [Path(name) for name in given.split(",")]
    if out and len(folders) > 1:
        raise BadConfig(f"--out is one file, and run= names {len(folders)} runs", hint="leave --out away")
    from plainloop.report.run.page import write_page
    from plainloop.report.run.read import read_run
    from plainloop.run.trained.folder import saved_config

    for folder in folders:
        saved_config(folder)  # which names the runs that are near where this is none
        run = read_run(folder)
        sys.stdout.write(f"{printable(str(write_page(run, out)))}\n")
        if run.evaluation_problem:
            sys.stderr.write(f"warning: it lacks the best evaluation: {printable(run.evaluation_problem)}\n")
    return 0
