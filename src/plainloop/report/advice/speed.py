"""Rules about where the time and the memory went."""

from __future__ import annotations

import math
from collections.abc import Mapping

from plainloop.config.durations import train_batch_size
from plainloop.loggers.numbers import digits
from plainloop.report.advice.evidence import Advice, Evidence

WAITING = 0.3  # share of the steps' time
FEW = 3  # rows
SHORT_STEP_S = (
    0.015  # forward, backward and update are about a thousand kernels, and the host starts one in about 10 µs
)
SMALL_PEAK = 0.2  # share of the device's memory
LARGE_PEAK = 0.6  # what a larger batch may take
FEWEST_STEPS = 50  # an epoch should have with a larger batch


def gpu_idle(run: Evidence) -> Advice | None:
    """Steps so short that a GPU waits for the host: fewer and larger kernels."""
    times, on_gpu = means(run), run.last("time/memory_gb") is not None
    if times is None or not on_gpu or run.config["trainer"].get("compile") is not False:
        return None
    wait, step = times
    if step > SHORT_STEP_S or wait > WAITING * step:
        return None
    evidence = f"a step takes {digits(1000 * step)} ms, hardly more than the host needs to start its kernels one by one"
    return Advice("GPU idle", evidence, "trainer=fast")


def small_batch(run: Evidence) -> Advice | None:
    """Much free memory: a larger batch, and the rate in proportion."""
    peak, sizes, lr = run.last("time/memory_gb"), run.environment.get("memory_gb"), run.number("optimizer.lr")
    whole = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], int | float) else 0.0
    if peak is None or lr is None or not 0 < peak < SMALL_PEAK * whole or not run.has("data.batch_size"):
        return None
    size, num_train = int(run.number("data.batch_size") or 0), run.config["facts"]["num_train"]
    factors = [f for f in (8, 4, 2) if f * peak <= LARGE_PEAK * whole and f * size * FEWEST_STEPS <= num_train]
    if not factors or train_batch_size(run.config) != size:
        return None
    line = f"data.batch_size={factors[0] * size}"
    if run.config["trainer"]["lr_scaling"]["rule"] == "none":
        line += f" optimizer.lr={factors[0] * lr:g}"
    evidence = f"data.batch_size={size} takes {peak:.1f} of the {whole:.0f} GB of the device; rates are scaled with it"
    return Advice("batch small for the memory", evidence, line)


def data_bound(run: Evidence) -> Advice | None:
    """The loop waits for data: more workers, else a cache."""
    times = means(run)
    if times is None or not run.has("data.cache") or times[0] < WAITING * times[1]:
        return None
    wait, step = times
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


def means(run: Evidence) -> tuple[float, float] | None:
    """Seconds of a step that are a wait for data, and all its seconds; the first row, which warms up, left out."""
    rows = [row for row in run.rows[1:] if "time/data_s" in row and row.get("time/step_s", 0) > 0]
    if len(rows) < FEW:
        return None
    wait, step = (sum(row[key] for row in rows) / len(rows) for key in ("time/data_s", "time/step_s"))
    return (wait, step) if math.isfinite(wait) and math.isfinite(step) else None
