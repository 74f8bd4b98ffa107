"""Where the time of a run went: parts that add up, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plainloop.report.run.read import Run

WAITING, EVALUATING, SAVING = 0.15, 0.4, 0.1  # shares from which on they are worth a word


@dataclass(frozen=True)
class Part:
    name: str
    seconds: float
    share: float
    note: str = ""


def parts_of(run: Run) -> list[Part]:
    """Of all attempts; they add up to the time from each start to its end, where that is known."""
    total = dict.fromkeys(("data", "prepare", "optimizer", "steps", "evaluate", "save"), 0.0)
    before, has_parts = 0.0, False
    for row in run.rows:
        steps = row["step"] - before
        before = row["step"]
        total["steps"] += steps * _number(row, "time/step_s")
        total["data"] += steps * _number(row, "time/data_s")
        total["prepare"] += steps * _number(row, "time/prepare_s")
        total["optimizer"] += steps * _number(row, "time/optimizer_s")
        total["evaluate"] += _number(row, "time/eval_s")
        total["save"] += _number(row, "time/save_s")
        has_parts = has_parts or "time/optimizer_s" in row
    rest = max(0.0, total["steps"] - total["data"] - total["prepare"] - total["optimizer"])
    name = "forward and backward" if has_parts else "copy, forward, backward, optimizer"
    known = {
        "waiting for data": (total["data"], ""),
        "copy and augmentation": (total["prepare"], ""),
        name: (rest, "" if has_parts else "not measured one by one in this run"),
        "optimizer": (total["optimizer"], ""),
        "evaluation": (total["evaluate"], ""),
        "saving": (total["save"], ""),
    }
    if (whole := _wall_seconds(run)) is not None:
        other = max(0.0, whole - total["steps"] - total["evaluate"] - total["save"])
        known["starting, ending, the rest"] = (other, "loading packages and data, building the model, lost steps")
    everything = sum(seconds for seconds, _ in known.values())
    return [Part(key, seconds, seconds / everything, note) for key, (seconds, note) in known.items() if seconds > 0]


def verdict(run: Run, parts: list[Part]) -> str:
    """What limits the run, in one sentence, with a line to type where one helps. "" where nothing was measured."""
    seconds = {part.name: part.seconds for part in parts}
    training = sum(seconds.get(name, 0.0) for name in seconds if name not in ("evaluation", "saving")) - seconds.get(
        "starting, ending, the rest", 0.0
    )
    shares = {part.name: part.share for part in parts}
    if training <= 0:
        return ""
    waiting = seconds.get("waiting for data", 0.0) / training
    if waiting > WAITING:
        found = f"The loader is the limit: {waiting:.0%} of a step is the wait for data"
        return found + (f"; try data.num_workers={more}" if (more := _more_workers(run)) else "") + "."
    if (share := shares.get("evaluation", 0.0)) > EVALUATING:
        return f"Evaluation takes {share:.0%} of the time; with trainer.eval_every=5ep it is done less often."
    if (share := shares.get("saving", 0.0)) > SAVING:
        return f"Saving takes {share:.0%} of the time; with trainer.save_every=5ep it is done less often."
    return f"The model is the limit: {1 - waiting:.0%} of a step is computing, {waiting:.0%} is the wait for data."


def _more_workers(run: Run) -> int | None:
    workers, cpu = run.config["data"].get("num_workers"), run.environment.get("cpu")
    cores = cpu.get("cores") if isinstance(cpu, Mapping) else None
    if not isinstance(workers, int) or not isinstance(cores, int) or 2 * workers >= cores:
        return None
    return min(cores - 1, max(2, 2 * workers))


def _number(row: Mapping[str, float], key: str) -> float:
    value = row.get(key, 0.0)
    return value if 0 <= value < 1e9 else 0.0


def _wall_seconds(run: Run) -> float | None:
    """From each start to its end; None where an attempt has not ended, or was killed."""
    starts = {row["attempt"]: row["started"] for row in run.attempts if "started" in row}
    ends = {row["attempt"]: row["ended"] for row in run.attempts if "ended" in row}
    if not starts or starts.keys() != ends.keys():
        return None
    return sum(ends[number] - started for number, started in starts.items())
