"""Checks a Slurm job before it is submitted: do tasks and devices match, can the site run it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plainloop.config.explain.problems import Problem
from plainloop.config.explain.suggest import nearest
from plainloop.sweep.slurm import client

HERE = "hydra.launcher"
LEAST = {
    **dict.fromkeys(("nodes", "tasks_per_node", "cpus_per_task", "array_parallelism"), 1),
    **dict.fromkeys(("timeout_min", "signal_delay_s"), 1),
    **dict.fromkeys(("gpus_per_node", "gpus_per_task", "mem_gb"), 0),  # mem_gb=0 is all memory of a node
}


def shape_problems(parameters: Mapping[str, Any], *, devices: Any, device: str) -> Iterator[Problem]:
    """Whether each rank has one task, and each rank on a GPU one GPU.

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
    for key, value in parameters.items():
        if isinstance(value, str) and "\n" in value:  # the rest would be a line of the batch script
            yield Problem(f"{HERE}.{key}", "holds a line break", repr(value), "one line")


def limit_problems(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    """A time above the partition's limit, which sbatch accepts though the job can never start. Asks Slurm."""
    partitions, given = client.partitions(), parameters["partition"]
    asked = given.split(",") if given else [name for name, row in partitions.items() if row.get("Default") == "YES"]
    unknown = [name for name in asked if name not in partitions]
    if unknown:
        yield Problem(
            f"{HERE}.partition",
            "unknown partition",
            ",".join(unknown),
            ", ".join(sorted(partitions)),
            instead=f"{HERE}.partition={(*nearest(unknown[0], partitions), *sorted(partitions), '...')[0]}",
        )
        return
    limits = {name: client.minutes(partitions[name].get("MaxTime", "UNLIMITED")) for name in asked}
    if limits and parameters["timeout_min"] > max(limits.values()):
        most = int(max(limits.values()))
        yield Problem(
            f"{HERE}.timeout_min",
            f"partition {','.join(asked)} ends jobs after {most} minutes; a job that asks for more never starts",
            str(parameters["timeout_min"]),
            f"at most {most}: a run that is not finished by then is requeued",
            instead=f"{HERE}.timeout_min={most}",
        )
    if parameters["signal_delay_s"] >= 60 * parameters["timeout_min"]:
        yield Problem(
            f"{HERE}.signal_delay_s",
            "warns before the job begins",
            str(parameters["signal_delay_s"]),
            f"well below {60 * parameters['timeout_min']} s, which is {HERE}.timeout_min",
            instead=f"{HERE}.signal_delay_s={min(120, 20 * parameters['timeout_min'])}",
        )


def key_problems(parameters: Mapping[str, Any], *, known: Iterable[str]) -> Iterator[Problem]:
    """Keys that were added with a + and that the launcher does not have."""
    names = set(known)
    for key in [key for key in parameters if key not in names and not key.startswith("_")]:
        near = [f"{HERE}.{name}" for name in nearest(key, names)]
        option = f"+{HERE}.additional_parameters.{key}={parameters[key]}"
        yield Problem(
            f"{HERE}.{key}",
            "unknown key",
            str(parameters[key]),
            "a key of the launcher; other options of sbatch go into additional_parameters",
            meant=", ".join(near),
            instead=f"{near[0]}={parameters[key]}" if near else option,
        )


def number_problems(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    """Counts and times that are too small; sbatch or submitit would fail with some of them."""
    for key, least in LEAST.items():
        value = parameters.get(key)
        if value is not None and value < least:
            yield Problem(
                f"{HERE}.{key}", "too small", str(value), f"{least} or more", instead=f"{HERE}.{key}={max(1, least)}"
            )


def folder_problems(folder: Path) -> Iterator[Problem]:
    """Whether Slurm would write the logs elsewhere: % and \\ have a meaning in their names."""
    if any(sign in str(folder) for sign in "%\\\n"):
        what = "holds % or \\ or a line break, which Slurm does not take literally in the names of logs"
        fix = f"hydra.sweep.dir={re.sub(r'[^A-Za-z0-9_./-]+', '-', str(folder.parent))}"
        yield Problem("hydra.sweep.dir", what, repr(str(folder)), "a plain path", instead=fix)


def refusal(text: str, parameters: Mapping[str, Any]) -> Problem:
    """The problem that sbatch's refusal describes, with the key to change.

    >>> refusal("Invalid account or account/partition combination specified", {}).key
    'hydra.launcher.account'
    >>> refusal('Invalid numeric value "x" for --mail-user', {}).key, refusal("unrecognized option '--bogus=1'", {}).key
    ('hydra.launcher.mail_user', 'hydra.launcher.additional_parameters.bogus')
    """
    key, hint = next(((key, hint) for words, key, hint in _REMEDIES if re.search(words, text, re.IGNORECASE)), ("", ""))
    option = re.search(r"--([a-z-]+)", text)
    if option and not key:
        name = option[1].replace("-", "_")
        key = _KEYS.get(name) or (name if name in _PLAIN else f"additional_parameters.{name}")
        hint = f"another value, or leave it out; what it takes is in: man sbatch, --{option[1]}"
        if "unrecognized" in text:
            hint = f"leave {HERE}.{key} out: sbatch has no such option"
    got = parameters.get(key)
    what = f"sbatch would refuse these jobs: {text}"
    return Problem(
        f"{HERE}.{key or '*'}", what, "" if got is None else str(got), instead=hint or f"other values of {HERE}.*"
    )


# What sbatch says, the key that it is about, and what to type.
_REMEDIES = (
    ("account", "account", f"{HERE}.account=<account>; yours are listed by: sacctmgr show associations user=$USER"),
    ("partition", "partition", f"{HERE}.partition=<partition>; they are listed by: sinfo -s"),
    ("qos", "qos", f"{HERE}.qos=<qos>; yours are listed by: sacctmgr show associations user=$USER format=qos"),
    ("feature|constraint", "constraint", f"{HERE}.constraint=<feature>; they are listed by: sinfo -o '%P %f'"),
    ("node name", "nodelist", f"{HERE}.nodelist=<nodes>, and exclude likewise; they are listed by: sinfo -N"),
    ("generic resource|gres", "gres", f"{HERE}.gpus_per_node=<number>, or a gres of: sinfo -o '%P %G'"),
    ("dependency", "dependency", f"{HERE}.dependency=afterok:<job id>, or another of: man sbatch, --dependency"),
    (
        "reservation",
        "additional_parameters.reservation",
        f"+{HERE}.additional_parameters.reservation=<name>; they are listed by: scontrol show reservation",
    ),
    (
        "node configuration|node count",
        "*",
        f"fewer nodes, GPUs, CPUs or less memory in {HERE}.*; there is: sinfo -o '%P %D %c %m %G'",
    ),
)
_KEYS = {"ntasks_per_node": "tasks_per_node", "mem": "mem_gb", "time": "timeout_min", "signal": "signal_delay_s"}
_PLAIN = {"nodes", "cpus_per_task", "cpus_per_gpu", "gpus_per_node", "gpus_per_task", "mem_per_cpu", "mem_per_gpu"}
_PLAIN |= {"comment", "exclude", "exclusive", "mail_type", "mail_user", "wckey"}
