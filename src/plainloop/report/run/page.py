"""report.html of a run: everything in one file, readable without a network."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml

from plainloop.config.durations import train_batch_size
from plainloop.errors import RunError, printable
from plainloop.loggers.numbers import amount, duration, score
from plainloop.report.advice.advice import advice
from plainloop.report.advice.evidence import Advice
from plainloop.report.run.curves import HEIGHT, WIDTH, charts, named
from plainloop.report.run.objects import ABOUT, KEY, has_objects
from plainloop.report.run.read import Run, read_run
from plainloop.report.run.results import MOST_IN_MATRIX, classes_of, drawings_of, tables_of, worst_of
from plainloop.report.run.spent import parts_of, verdict
from plainloop.run_dir.status import command_to_continue
from plainloop.system import storage
from plainloop.tasks.details import BOX

log = logging.getLogger("plainloop")

NAME = "report.html"
MOST_CONFIG = 200_000  # characters that are shown
LONG_LIST = 60  # names of classes; more are left out of the shown config
MOST_EVENTS = 20
STATES = {
    "DONE": "done",
    "RUNNING": "running",
    "PREEMPTED": "stopped, to be continued",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "LOST": "died",
    "PENDING": "not started",
}


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Makes the page from what a live, dead or finished run has written so far; `out` is report.html in its folder.

    Raises BadConfig, BadData and CannotWrite.
    """
    return write_page(read_run(folder), out)


def write_page(run: Run, out: Path | None = None) -> Path:
    path = out or run.folder / NAME
    if out:
        storage.make_folder(out.absolute().parent)
    storage.write_whole(path, page(run).encode("utf-8", "replace"))
    return path


def report_at_the_end(folder: Path) -> None:
    """The same for a run that is done, whether there is a report or not."""
    try:
        path = write_report(folder)
    except RunError as error:
        log.warning("no report: %s", error)
        return
    here = Path.cwd()
    log.info("report: %s", path.relative_to(here) if path.is_relative_to(here) else path)


def page(run: Run) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    parts = parts_of(run)
    best = run.best()
    found = run.evaluation
    epochs = run.clock.epochs(run.clock.total_steps)
    drawn = charts(run.rows, monitor=run.monitor, best_epoch=run.clock.epochs(best[0]) if best else None, epochs=epochs)
    return environment.get_template("page.html").render(
        name=printable(run.folder.absolute().name),
        title=printable(str(run.config.get("name", ""))),
        state=run.status.state,
        state_text=STATES[run.status.state],
        status=run.status,
        metric=named(run.monitor, run.rows),
        best={"step": best[0], "value": score(best[1]), "epoch": epochs_text(run.clock.epochs(best[0]))}
        if best
        else None,
        facts=facts_of(run),
        advice=advice_for(run),
        charts=drawn,
        chart_size=(WIDTH, HEIGHT),
        evaluation=found,
        evaluation_problem=run.evaluation_problem,
        classes=classes_of(run, found) if found else None,
        most_in_matrix=MOST_IN_MATRIX,
        worst=worst_of(run, found) if found else [],
        worst_about=ABOUT if found and has_objects(found) else "",
        worst_key=[(f"rgb{colour}", name) for colour, name in KEY],
        details=found.details if found else None,
        tables=tables_of(found) if found else [],
        drawings=drawings_of(found) if found else [],
        parts=parts,
        verdict=verdict(run, parts),
        duration=duration,
        overrides=[override.partition("=")[::2] for override in own_overrides(run)],
        config=shown_config(run.config),
        command=command(run),
        again=command_to_continue(run.folder),
        environment=environment_of(run),
        attempts=attempts_of(run),
        events=events_of(run),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def advice_for(run: Run) -> list[Advice]:
    try:
        return advice(run.folder)
    except RunError:  # a config that rules cannot read can still be shown
        return []


def facts_of(run: Run) -> list[tuple[str, str]]:
    """The headline's small numbers."""
    facts, data = run.config["facts"], run.config["data"]
    steps = int(run.rows[-1]["step"]) if run.rows else run.status.step
    total = run.clock.total_steps
    best, metric = run.best(), run.monitor.rpartition("/")[2]
    best_rows = [row for row in run.rows if best and row["step"] == best[0]]
    of_boxes = [row[key] for row in best_rows if (key := f"val/{BOX}{metric}") in row]
    found = [(f"{metric} of boxes", score(value)) for value in of_boxes[-1:]]
    found += [("steps", f"{steps:,}" if steps == total else f"{steps:,} of {total:,}")]
    found += [("epochs", epochs_text(run.clock.epochs(steps)))]
    if (seconds := _seconds(run)) is not None:
        found.append(("duration", duration(seconds)))
    if rate := run.summary.get("images_per_s"):
        found.append(("images per second", amount(rate)))
    if isinstance(parameters := run.summary.get("parameters"), int):
        found.append(("parameters", amount(parameters)))
    found.append(("data", f"{_last_part(data)}, {_count(facts['num_train'])} train, {_count(facts['num_val'])} val"))
    found.append(("model", str(run.config["model"].get("model_name") or _last_part(run.config["model"]))))
    found.append(("batch", f"{train_batch_size(run.config):,}"))
    return [(name, printable(text)) for name, text in found]


def epochs_text(epochs: float) -> str:
    """
    >>> epochs_text(4.0), epochs_text(2.54), epochs_text(0.042)
    ('4', '2.5', '0.042')
    """
    return f"{epochs:.1f}".removesuffix(".0") if epochs >= 1 or epochs == 0 else f"{epochs:.2g}"


def own_overrides(run: Run) -> list[str]:
    return [one for one in run.overrides if not re.match(r"\+*(hydra\.|resume|check=)", one)]


def command(run: Run) -> str:
    """What repeats the run in a folder of its own."""
    if run.overrides or not run.attempts:
        return shlex.join(["python", "train.py", *own_overrides(run)])
    typed = next((row["command"] for row in run.attempts if isinstance(row.get("command"), str)), "train.py")
    return f"python {typed}"


def shown_config(config: Mapping[str, Any]) -> str:
    facts = dict(config["facts"])
    for key, value in facts.items():
        if isinstance(value, list) and len(value) > LONG_LIST:
            facts[key] = f"{len(value)} values"
    text = yaml.safe_dump({**config, "facts": facts}, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text[:MOST_CONFIG] + ("\n…" if len(text) > MOST_CONFIG else "")


def environment_of(run: Run) -> list[tuple[str, str]]:
    there = run.environment
    cpu, git = _mapping(there.get("cpu")), _mapping(there.get("git"))
    versions = _mapping(there.get("versions"))
    devices = there.get("devices")
    changed = " and changes that are not committed" if git.get("dirty") else ""
    found = {
        "device": ", ".join(map(str, devices)) if isinstance(devices, list) and devices else "CPU",
        "CPU": f"{cpu.get('name', '')}, {cpu.get('cores', '?')} cores" if cpu else "",
        "processes": there.get("ranks", ""),
        "threads of each": there.get("threads", ""),
        "Python": there.get("python", ""),
        **{name: versions.get(name) or "" for name in ("torch", "torchvision", "timm")},
        "commit": f"{git['commit']}{changed}" if git.get("commit") else "",
        "host": there.get("host", ""),
        "system": there.get("platform", ""),
    }
    return [(name, printable(str(value))) for name, value in found.items() if value not in ("", None)]


def attempts_of(run: Run) -> list[dict[str, str]]:
    starts = [row for row in run.attempts if "started" in row]
    ends = {row["attempt"]: row for row in run.attempts if "ended" in row}
    found = []
    for row in starts:
        end = ends.get(row["attempt"], {})
        state = end.get("state", "RUNNING" if row is starts[-1] and run.status.state == "RUNNING" else "LOST")
        took = duration(max(0.0, end["ended"] - row["started"])) if "ended" in end else ""
        reason = str(end.get("reason") or "")
        found.append(
            {
                "number": str(row["attempt"]),
                "started": _clock_time(row["started"]),
                "from": str(row.get("step", 0)),
                "to": str(end.get("step", "")),
                "took": took,
                "how": STATES.get(str(state), str(state)) + (f" ({reason})" if reason else ""),
                "host": printable(str(row.get("host", ""))),
            }
        )
    return found


def events_of(run: Run) -> list[str]:
    """The last ones, each as a line."""
    lines = []
    for event in run.events[-MOST_EVENTS:]:
        words = ", ".join(f"{key} {str(value)[:200]}" for key, value in event.items() if key not in ("time", "kind"))
        lines.append(printable(f"{_clock_time(event.get('time', 0.0))}  {event.get('kind', '')}: {words}"))
    return lines


def _seconds(run: Run) -> float | None:
    """From each start to its end; of an attempt that has none, to the last sign of life."""
    starts = {row["attempt"]: row["started"] for row in run.attempts if "started" in row}
    if not starts:
        return None
    ends = {row["attempt"]: row["ended"] for row in run.attempts if "ended" in row}
    last = time.time() if run.status.state == "RUNNING" else run.status.heartbeat
    newest = max(starts)
    return sum(
        max(0.0, ends.get(number, last if number == newest else started) - started)
        for number, started in starts.items()
    )


def _clock_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "?"


def _last_part(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "?")).rpartition(".")[2]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
