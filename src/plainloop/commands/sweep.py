"""`python scripts/sweep.py`: shows, compares, retries and cancels a sweep from its folder alone, wherever it runs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from plainloop.errors import BadConfig, RunError, counted
from plainloop.sweep import collect, index, outcome, results, table
from plainloop.sweep.outcome import BAD, Row
from plainloop.sweep.slurm import submitted
from plainloop.sweep.table import printable
from plainloop.system import storage

EXAMPLES = """examples:
  python scripts/sweep.py status outputs/train/2026-01-31_12-00-00-000000
  python scripts/sweep.py status --watch 5 outputs/train/2026-01-31_12-00-00-000000
  python scripts/sweep.py logs --failed <sweep dir>
  python scripts/sweep.py table <sweep dir>
  python scripts/sweep.py compare <sweep dir>
  python scripts/sweep.py collect <sweep dir>
  python scripts/sweep.py retry <sweep dir>
  python scripts/sweep.py retry <sweep dir> 3 5 'plugins=[my_package]'
"""

EXAMPLES_OF = {
    "table": """examples:
  python scripts/sweep.py table outputs/train/2026-01-31_12-00-00-000000
  python scripts/sweep.py table --best <sweep dir>
  python scripts/sweep.py table --format markdown --metric val/loss <sweep dir> <another>
""",
    "compare": """examples:
  python scripts/sweep.py compare outputs/train/2026-01-31_12-00-00-000000
  python scripts/sweep.py compare <sweep dir> --factor augment --baseline none
  python scripts/sweep.py compare <sweep dir> <another> --metric val/loss --last
""",
}


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    options = _parser().parse_args(arguments)
    try:
        for sweep in [options.sweep, *getattr(options, "more", ())]:
            _check_sweep(sweep, [word for word in getattr(options, "job", ()) if isinstance(word, int)])
        code: int = options.do(options)
    except RunError as error:
        sys.stderr.write(f"{error}\n" + (f"next: {error.hint}\n" if error.hint else ""))
        return error.code
    except KeyboardInterrupt:
        return 130
    return code


def _check_sweep(sweep: Path, numbers: Sequence[int]) -> None:
    """Raises BadConfig where no sweep can be read, or for numbers that are no jobs; warns of broken lines."""
    file = sweep / index.FILE
    if not file.is_file():
        near = next((folder for folder in sweep.absolute().parents[:2] if (folder / index.FILE).is_file()), None)
        hint = f"give the folder of a sweep{f', such as {near}' if near else ''}"
        if not near and (sweep / "config.yaml").is_file():
            hint = f"it is one run: type python scripts/report.py run={sweep}"
        raise BadConfig(f"{sweep} has no {index.FILE}: it is not the folder of a sweep", hint=hint)
    known, broken = {entry.number for entry in index.read(sweep)}, index.num_broken_lines(sweep)
    hint = "type the sweep's command again with this hydra.sweep.dir: finished jobs are recognized"
    if not known:
        raise BadConfig(f"{file} holds no job that can be read", hint=hint)
    if broken:
        sys.stderr.write(f"warning: {counted(broken, 'line')} of {file} cannot be read, with the jobs in it; {hint}\n")
    for number in numbers:
        if number not in known:
            raise BadConfig(f"job {number} is not a job of this sweep", hint=f"they are {min(known)} to {max(known)}")


def status(options: argparse.Namespace) -> int:
    """The table; with --watch again every few seconds, until no job runs or waits."""
    while True:
        rows = outcome.rows(options.sweep)
        shown = [row for row in rows if not options.state or row.state in options.state]
        if options.watch is not None and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        if options.json:
            sys.stdout.write(collect.as_json(collect.results(shown)))
        else:
            table.show(shown)
        sys.stdout.flush()
        if options.watch is None or not any(row.state in ("PENDING", "RUNNING", "PREEMPTED") for row in rows):
            return 0
        time.sleep(options.watch)


def logs(options: argparse.Namespace) -> int:
    """The last lines of the jobs' logs."""
    rows = outcome.rows(options.sweep)
    chosen = [row for row in rows if not options.job or row.number in options.job]
    for row in chosen:
        if options.failed and row.state not in BAD:
            continue
        for file in _logs_of(row, options.sweep):
            sys.stdout.write(f"==> job {row.number}  {row.state}  {printable(str(file))}\n")
            for line in _tail(file, options.lines, options.sweep):
                sys.stdout.write(f"{printable(line)}\n")
    return 0


def gather(options: argparse.Namespace) -> int:
    """Writes results.csv and results.json to the sweep's folder and prints the table; or prints one of them."""
    rows = outcome.rows(options.sweep)
    if options.format in ("csv", "json"):
        flat = collect.results(rows)
        sys.stdout.write(collect.as_csv(flat) if options.format == "csv" else collect.as_json(flat))
        return 0
    table.show_results(rows, options.sweep)
    if options.format is None:
        for path in collect.write(options.sweep, rows):
            sys.stdout.write(f"{path}\n")
    return 0


def show_table(options: argparse.Namespace) -> int:
    """The settings of one or several sweeps, best first; writes sweep.html."""
    from plainloop.report.sweep import jobs, text

    read = {sweep: outcome.rows(sweep) for sweep in dict.fromkeys([options.sweep, *options.more])}
    found = results.read(read)
    folded = jobs.fold(found, results.metric_of(found, options.metric, last=options.last))
    if options.best:
        sys.stdout.writelines(f"{line}\n" for line in text.best_lines(folded))
        return 0
    sys.stdout.write({"markdown": text.as_markdown, "csv": text.as_csv, "text": text.as_text}[options.format](folded))
    if options.format == "text" or options.out:
        sys.stdout.write(f"page: {table.write_page(folded, list(read), options.out)}\n")
    return 0


def compare(options: argparse.Namespace) -> int:
    """What each value of each factor changes."""
    from plainloop.report.sweep import effects, jobs, text

    read = {sweep: outcome.rows(sweep) for sweep in dict.fromkeys([options.sweep, *options.more])}
    found = results.read(read)
    metric, keys = results.metric_of(found, options.metric, last=options.last), jobs.differing(found)
    if not keys:
        raise BadConfig("all jobs have the same settings, but for seeds: there is no factor to compare")
    if options.baseline is not None and options.factor is None:
        raise BadConfig("--baseline is a value of one factor", hint=f"add --factor {keys[0]}, or another of them")
    chosen = [key for key in keys if options.factor is None or options.factor in (key, jobs.short_names(keys)[key])]
    if not chosen:
        repeated = options.factor in jobs.REPLICATES
        why = (
            f"{options.factor} is what a setting is repeated over" if repeated else "no key that differs has this name"
        )
        raise BadConfig(f"--factor {options.factor}: {why}", hint=f"type one of {', '.join(keys)}")
    try:
        factors = [effects.factor_of(found, key, metric, options.baseline) for key in chosen]
    except ValueError as error:
        values = dict.fromkeys(job.values.get(chosen[0], "") for job in found)
        raise BadConfig(f"--baseline {error}", hint=f"type one of {' '.join(map(shlex.quote, values))}") from error
    form = text.factors_as_markdown if options.format == "markdown" else text.factors_as_text
    sys.stdout.write(form(factors, metric))
    return 0


def again(options: argparse.Namespace) -> int:
    """Runs the failed and lost jobs again."""
    from plainloop.commands.train import register_launchers
    from plainloop.config.compose.composer import Composer
    from plainloop.sweep.retry import retry

    typed = [word for word in options.job if isinstance(word, str)]
    allowed = ("plugins=", "hydra/launcher=", "hydra.launcher.")
    if other := [word for word in typed if not word.lstrip("+").startswith(allowed)]:
        message = f"retry runs each job under its own config: {' '.join(other)} is not for it"
        raise BadConfig(message, hint="leave it out; what may be typed begins with one of: " + "  ".join(allowed))
    conf = Path(sys.argv[0]).absolute().parent.parent / "conf"
    register_launchers(conf)
    numbers = [word for word in options.job if isinstance(word, int)]
    return retry(options.sweep, numbers, composer=Composer(conf), typed=typed, lost=options.lost)


def cancel(options: argparse.Namespace) -> int:
    """Cancels Slurm's jobs; tells a local sweep to save and stop."""
    from plainloop.sweep.retry import cancel

    for line in cancel(options.sweep, options.job):
        sys.stdout.write(f"{line}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sweep.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="status|logs|table|compare|collect|retry|cancel")
    for name, do, text in (
        ("status", status, "one line for each job, and what failed"),
        ("logs", logs, "the last lines of the jobs' logs"),
        ("table", show_table, "the settings, best first: mean and spread over seeds"),
        ("compare", compare, "what each value of a factor changes, paired over seeds"),
        ("collect", gather, "results as CSV, JSON and table"),
        ("retry", again, "run the failed and lost jobs again"),
        ("cancel", cancel, "stop the jobs; running ones save first"),
    ):
        shown = argparse.RawDescriptionHelpFormatter
        verb = verbs.add_parser(name, help=text, epilog=EXAMPLES_OF.get(name), formatter_class=shown)
        verb.add_argument("sweep", type=Path, metavar="SWEEP_DIR")
        verb.set_defaults(do=do)
        if name in ("logs", "cancel"):
            verb.add_argument("job", type=int, nargs="*", help="these jobs only, by number")
        if name == "status":
            verb.add_argument(
                "--watch", type=float, nargs="?", const=2.0, metavar="SECONDS", help="repeat every SECONDS (2)"
            )
            verb.add_argument("--state", nargs="+", choices=STATES, help="only these")
            verb.add_argument("--json", action="store_true", help="as JSON")
        if name in ("table", "compare"):
            verb.add_argument("more", type=Path, nargs="*", metavar="SWEEP_DIR", help="further sweeps, joined with it")
            verb.add_argument("--metric", help="such as val/loss (the one that decides which checkpoint is the best)")
            verb.add_argument("--last", action="store_true", help="of the last evaluation, not of each run's best")
        if name == "table":
            verb.add_argument("--best", action="store_true", help="only which run and weights to go on with")
            verb.add_argument("--format", choices=("text", "markdown", "csv"), default="text", help="(%(default)s)")
            verb.add_argument("--out", type=Path, help="the page (sweep.html in the first sweep's folder)")
        if name == "compare":
            verb.add_argument("--factor", help="a key that was swept, such as augment (all of them)")
            verb.add_argument("--baseline", help="the value with which the others are compared (none, else the first)")
            verb.add_argument("--format", choices=("text", "markdown"), default="text", help="(%(default)s)")
        if name == "logs":
            verb.add_argument("--lines", type=int, default=20, help="of each log (20)")
            verb.add_argument("--failed", action="store_true", help="of failed and lost jobs only")
        if name == "collect":
            verb.add_argument("--format", choices=("csv", "json", "table"), help="print it, write no files")
        if name == "retry":
            text = "these jobs only, by number; plugins=[...] and hydra.launcher.*, which no file of the sweep decides"
            verb.add_argument("job", type=lambda word: int(word) if word.isdecimal() else word, nargs="*", help=text)
            lost = argparse.BooleanOptionalAction
            verb.add_argument("--lost", action=lost, default=True, help="also jobs whose process has disappeared")
    return parser


STATES = ("PENDING", "RUNNING", "PREEMPTED", "FAILED", "CANCELLED", "DONE", "LOST")


def _logs_of(row: Row, sweep: Path) -> list[Path]:
    files = sorted(row.folder.glob("*.log")) if index.stays_inside(row.folder, sweep) else []
    slurm_log = submitted.logs(sweep).get(row.number)
    return [*files, slurm_log] if slurm_log else files


def _tail(file: Path, lines: int, sweep: Path) -> list[str]:
    """Or why there is nothing to read: a sweep's files can name any file of this machine."""
    if not index.stays_inside(file, sweep):
        return ["(it is not shown, because it lies outside of the sweep)"]
    try:
        with open(storage.open_file(file, os.O_RDONLY), encoding="utf-8", errors="replace") as text:
            return [line.rstrip("\n") for line in deque(text, maxlen=lines)]
    except OSError as error:
        return [f"(cannot be read: {error.strerror})"]
