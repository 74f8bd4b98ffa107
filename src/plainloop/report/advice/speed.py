"""Rules about where the time and the memory went."""

from __future__ import annotations

import math
from collections.abc import Mapping

from plainloop.loggers.numbers import digits
from plainloop.report.advice.evidence import Advice, Evidence

WAITING = 0.3  # share of the steps' time
FEW = 3  # rows


def data_bound(run: Evidence) -> Advice | None:
    """The loop waits for data: more workers, else a cache."""
    rows = [row for row in run.rows[1:] if "time/data_s" in row and row.get("time/step_s", 0) > 0]
    if len(rows) < FEW or not run.has("data.cache"):
        return None
    wait, step = (sum(row[key] for row in rows) / len(rows) for key in ("time/data_s", "time/step_s"))
    if not math.isfinite(wait / step) or wait < WAITING * step:
        return None
    evidence = f"a step takes {digits(1000 * step)} ms, and {100 * wait / step:.0f} % of it is the wait for data"
    cpu, workers = run.environment.get("cpu"), run.number("data.num_workers")
    cores = cpu.get("cores") if isinstance(cpu, Mapping) else None
    if isinstance(cores, int) and workers is not None and 2 * workers < cores:
        more = min(cores - 1, max(2, 2 * int(workers)))
        return Advice(
            "data-bound", f"{evidence}, with {workers:g} workers of {cores} cores", f"data.num_workers={more}"
        )
    if run.config["data"]["cache"] == "none":
        return Advice("data-bound", f"{evidence}; decoded once, images are read faster", "data.cache=disk")
    return None
