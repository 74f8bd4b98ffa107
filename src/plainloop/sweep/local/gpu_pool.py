"""The keys of hydra/launcher=gpu_pool: their check against the machine, and which GPUs each job gets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import Problem, invalid_run
from plainloop.system.gpus import visible_gpus

log = logging.getLogger("plainloop")

_KEY = "hydra.launcher."
_LEAST = {"gpus_per_job": 0, "slots": 1, "jobs_per_gpu": 1}


def pool_problems(
    launcher: Mapping[str, Any], configs: Sequence[Mapping[str, Any]], origin: Origin | None = None
) -> list[Problem]:
    """
    Args:
        launcher: the launcher's keys, `_LEAST` at least.
        configs: of the jobs.
        origin: where the keys were given, if known.
    """

    def problem(key: str, what: str, got: Any, expected: str, instead: str) -> Problem:
        return Problem(key, what, str(got), expected, origin.given_by(key) if origin else "", instead=instead)

    problems = []
    for name, least in _LEAST.items():
        value = launcher[name]
        is_auto = name == "slots" and value == "auto"
        if not is_auto and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            key, words = _KEY + name, "auto, or 1 or more" if name == "slots" else f"a whole number, {least} or more"
            instead = f"{key}=auto, or {key}=2" if name == "slots" else f"{key}=1"
            problems.append(problem(key, "wrong type or value", repr(value), words, instead))
    if problems:
        return problems
    gpus_per_job = launcher["gpus_per_job"]
    gpus, wanted = len(visible_gpus()), max(map(num_gpus, configs), default=0)
    key = f"{_KEY}gpus_per_job"
    if gpus and gpus_per_job > gpus:
        problems.append(problem(key, "is more than the visible GPUs", gpus_per_job, f"at most {gpus}", f"{key}={gpus}"))
    elif gpus and gpus_per_job and wanted > gpus_per_job:
        what, expected = "asks for more GPUs than a job gets", f"at most {key}={gpus_per_job}, numbered from 0"
        problems.append(problem("trainer.devices", what, wanted, expected, f"{key}={wanted}"))
    return problems


def gpus_of_slots(
    gpus_per_job: int, slots: int | str, jobs_per_gpu: int, *, configs: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """The GPUs of each slot: of each job that runs at the same time. Raises InvalidConfig."""
    problems = pool_problems(dict(zip(_LEAST, (gpus_per_job, slots, jobs_per_gpu), strict=True)), configs)
    if problems:
        raise invalid_run(problems, [])
    gpus = visible_gpus()
    if not gpus and gpus_per_job and slots == "auto":
        log.info("no GPU is visible: one job at a time on the CPU; hydra.launcher.slots=N for N at a time")
    return split_gpus(gpus, per_job=gpus_per_job, slots=None if slots == "auto" else int(slots), sharing=jobs_per_gpu)


def split_gpus(gpus: list[str], *, per_job: int, slots: int | None, sharing: int = 1) -> list[list[str]]:
    """One list of GPUs for each slot, every list `sharing` times; empty lists where there are no GPUs.

    >>> split_gpus(["0", "1", "2"], per_job=1, slots=None), split_gpus(["0", "1", "2", "3"], per_job=2, slots=None)
    ([['0'], ['1'], ['2']], [['0', '1'], ['2', '3']])
    >>> split_gpus([], per_job=1, slots=2), split_gpus(["0", "1"], per_job=1, slots=3, sharing=2)
    ([[], []], [['0'], ['1'], ['0']])
    """
    if not gpus or per_job == 0:
        return [[] for _ in range(slots or 1)]
    groups = [gpus[start : start + per_job] for start in range(0, len(gpus) - per_job + 1, per_job)] * sharing
    return groups[:slots] if slots else groups


def num_gpus(config: Mapping[str, Any]) -> int:
    """GPUs that a job must see."""
    devices = config["trainer"]["devices"]
    if config["device"] == "cpu":
        return 0
    return max(devices, default=-1) + 1 if isinstance(devices, list) else devices if isinstance(devices, int) else 1
