"""The GPUs that jobs can be given, counted without waking CUDA: a process that has done that cannot fork jobs."""

from __future__ import annotations

import os
import shutil
import subprocess

_ASK_S = 30.0  # nvidia-smi answers in a second, unless a driver is broken


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may hold for one job each: the entries of ours, else every GPU of the machine.

    As CUDA does it, an entry that is no device hides those after it. Without an NVIDIA driver there are none.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = _listed() if given is None or given.strip() else []
    if given is None or not listed:
        return [index for index, _ in listed]
    found: list[str] = []
    for entry in (part.strip() for part in given.split(",")):
        known = any(entry == index or (entry.startswith("GPU-") and uuid.startswith(entry)) for index, uuid in listed)
        if not (known or entry.startswith("MIG-")) or entry in found:
            break
        found.append(entry)
    return found


def dealt(gpus: list[str], *, per_job: int, slots: int | None) -> list[list[str]]:
    """One list of GPUs for each job that runs at the same time; empty ones where there are no GPUs to give.

    >>> dealt(["0", "1", "2"], per_job=1, slots=None), dealt(["0", "1", "2", "3"], per_job=2, slots=None)
    ([['0'], ['1'], ['2']], [['0', '1'], ['2', '3']])
    >>> dealt([], per_job=1, slots=2), dealt(["0", "1"], per_job=1, slots=1), dealt(["0"], per_job=0, slots=2)
    ([[], []], [['0']], [[], []])
    """
    if not gpus or per_job == 0:
        return [[] for _ in range(slots or 1)]
    places = [gpus[start : start + per_job] for start in range(0, len(gpus) - per_job + 1, per_job)]
    return places[:slots] if slots else places


def _listed() -> list[tuple[str, str]]:
    """Index and UUID of each GPU, as nvidia-smi has them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=index,uuid", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=_ASK_S, check=False)
    rows = [line.split(",") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    return [(index.strip(), uuid.strip()) for index, uuid in (row for row in rows if len(row) == 2)]
