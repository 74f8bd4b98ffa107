"""What the launcher of jobs side by side may be told, held against the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import Problem
from plainloop.system.gpus import visible_gpus

_KEY = "hydra.launcher."


def pool_problems(
    gpus_per_job: Any, slots: Any, configs: Sequence[Mapping[str, Any]], origin: Origin | None = None
) -> list[Problem]:
    """
    Args:
        gpus_per_job, slots: of hydra/launcher=gpu_pool.
        configs: of the jobs.
        origin: tells who gave the keys, where that is known.
    """

    def problem(name: str, what: str, got: str, expected: str, *, instead: str) -> Problem:
        key = name if "." in name else _KEY + name
        return Problem(key, what, got, expected, origin.given_by(key) if origin else "", instead=instead)

    problems = []
    if not isinstance(gpus_per_job, int) or isinstance(gpus_per_job, bool) or gpus_per_job < 0:
        expected = "a whole number, 0 or more"
        problems.append(
            problem(
                "gpus_per_job", "wrong type or value", repr(gpus_per_job), expected, instead=f"{_KEY}gpus_per_job=1"
            )
        )
    if slots != "auto" and (not isinstance(slots, int) or isinstance(slots, bool) or slots < 1):
        expected = "auto, or 1 or more"
        problems.append(
            problem(
                "slots", "wrong type or value", repr(slots), expected, instead=f"{_KEY}slots=auto, or {_KEY}slots=2"
            )
        )
    if problems:
        return problems
    gpus = len(visible_gpus())
    wanted = max((gpus_of(config) for config in configs), default=0)
    if gpus and gpus_per_job > gpus:
        words = ("is more GPUs than there are", str(gpus_per_job), f"at most {gpus}")
        problems.append(problem("gpus_per_job", *words, instead=f"{_KEY}gpus_per_job={gpus}"))
    elif gpus and gpus_per_job and wanted > gpus_per_job:
        expected = f"at most {_KEY}gpus_per_job={gpus_per_job}, numbered from 0"
        words = ("asks for more GPUs than a job is given", str(wanted), expected)
        problems.append(problem("trainer.devices", *words, instead=f"{_KEY}gpus_per_job={wanted}"))
    return problems


def gpus_of(config: Mapping[str, Any]) -> int:
    """GPUs that a job has to see."""
    devices = config["trainer"]["devices"]
    if config["device"] == "cpu":
        return 0
    return max(devices, default=-1) + 1 if isinstance(devices, list) else devices if isinstance(devices, int) else 1
