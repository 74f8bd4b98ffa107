"""What can be known of a Slurm job before it is submitted: do tasks and devices match, can the site run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plainloop.config.names import nearest
from plainloop.config.problems import Problem
from plainloop.slurm import client

HERE = "hydra.launcher"


def shape_problems(parameters: Mapping[str, Any], *, devices: Any, device: str) -> Iterator[Problem]:
    """One task is one rank, and each rank on a GPU has its own.

    Args:
        parameters: the launcher's keys.
        devices: `trainer.devices` of the jobs.
        device: `device` of the jobs.
    """
    nodes, tasks = parameters["nodes"] or 1, parameters["tasks_per_node"] or 1
    gpus, ranks = parameters["gpus_per_node"], nodes * tasks
    wanted = len(devices) if isinstance(devices, list) else devices
    if ranks > 1 and wanted not in ("auto", ranks):
        yield Problem(
            "trainer.devices",
            f"{nodes} nodes with {tasks} tasks are {ranks} ranks",
            str(devices),
            f"auto, or {ranks}",
            instead="trainer.devices=auto",
        )
    if gpus and device in ("auto", "cuda") and tasks != gpus and (tasks > 1 or wanted != gpus or nodes > 1):
        yield Problem(
            f"{HERE}.tasks_per_node",
            f"each of {gpus} GPUs of a node needs a task",
            str(tasks),
            f"{gpus}, as many as {HERE}.gpus_per_node",
            instead=f"{HERE}.tasks_per_node={gpus}",
        )
    if not parameters["use_srun"] and ranks > 1:
        yield Problem(
            f"{HERE}.use_srun",
            f"without srun there is one task, not {ranks}",
            "false",
            instead=f"{HERE}.use_srun=true",
        )
    for key in ("name", "comment", "submitit_folder"):
        if "\n" in str(parameters.get(key) or ""):
            yield Problem(f"{HERE}.{key}", "holds a line break", repr(parameters[key]), "one line")


def limit_problems(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    """Time above the partition's limit: sbatch takes it all the same, and the job pends for ever. Asks Slurm."""
    there = client.partitions()
    named = parameters["partition"]
    asked = named.split(",") if named else [name for name, row in there.items() if row.get("Default") == "YES"]
    unknown = [name for name in asked if name not in there]
    if unknown:
        yield Problem(
            f"{HERE}.partition",
            "unknown partition",
            ",".join(unknown),
            ", ".join(sorted(there)),
            instead=f"{HERE}.partition={(*nearest(unknown[0], there), *sorted(there), '...')[0]}",
        )
        return
    limits = {name: client.minutes(there[name].get("MaxTime", "UNLIMITED")) for name in asked}
    if limits and parameters["timeout_min"] > max(limits.values()):
        most = int(max(limits.values()))
        yield Problem(
            f"{HERE}.timeout_min",
            f"partition {','.join(asked)} ends jobs after {most} minutes; a job that asks for more pends for ever",
            str(parameters["timeout_min"]),
            f"at most {most}: a run that is not done by then comes back by itself",
            instead=f"{HERE}.timeout_min={most}",
        )
    if parameters["signal_delay_s"] >= 60 * parameters["timeout_min"]:
        yield Problem(
            f"{HERE}.signal_delay_s",
            "warns before the job has begun",
            str(parameters["signal_delay_s"]),
            f"well below {60 * parameters['timeout_min']} s, which is {HERE}.timeout_min",
            instead=f"{HERE}.signal_delay_s={min(120, 20 * parameters['timeout_min'])}",
        )


def refusal(text: str) -> Problem:
    """What sbatch says to a job that it would not take."""
    return Problem("hydra/launcher=submitit_slurm", f"sbatch would refuse these jobs: {text}", instead=remedy(text))


def remedy(text: str) -> str:
    """The key to change, for refusals that name none.

    >>> remedy("Invalid account or account/partition combination specified")
    'hydra.launcher.account=<account>; yours are listed by: sacctmgr show associations user=$USER'
    """
    words = text.lower()
    if "account" in words:
        return f"{HERE}.account=<account>; yours are listed by: sacctmgr show associations user=$USER"
    if "partition" in words:
        return f"{HERE}.partition=<partition>; they are listed by: sinfo -s"
    if "qos" in words:
        return f"{HERE}.qos=<qos>; yours are listed by: sacctmgr show associations user=$USER format=qos"
    if "node configuration" in words or "node count" in words:
        return f"fewer nodes, GPUs, CPUs or less memory in {HERE}.*; there is: sinfo -o '%P %D %c %m %G'"
    return f"other values of {HERE}.*"
