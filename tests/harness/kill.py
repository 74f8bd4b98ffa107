"""Runs that are killed at random moments and started again until they are done."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

from plainloop.errors import NoProgress
from tests.harness.runs import start_config


def finish(config: dict[str, Any], folder: Path) -> float:
    """Lets the run go on undisturbed; seconds."""
    started = time.monotonic()
    code = NoProgress.code
    while code == NoProgress.code:  # said once after three kills without a new checkpoint; it may be started again
        code = start_config(config, folder).wait().code
    assert code == 0, f"the run in {folder} failed; see its status.json"
    return time.monotonic() - started


def kill_until_done(config: dict[str, Any], folder: Path, draw: random.Random, *, longest: float, most: int) -> int:
    """Kills the run at random moments until it has got to its end, at most so often; then lets it finish. The kills."""
    kills = 0
    while kills < most:
        child = start_config(config, folder)
        until = time.monotonic() + draw.uniform(0.01, longest)
        child.until(lambda until=until: time.monotonic() > until)
        child.kill(signal.SIGKILL)
        code = child.wait().code
        if code == 0:  # it was quicker
            return kills
        assert code in (-signal.SIGKILL, NoProgress.code), f"{folder}: exit code {code}"
        kills += code == -signal.SIGKILL
    finish(config, folder)
    return kills
