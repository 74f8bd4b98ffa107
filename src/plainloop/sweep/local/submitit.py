"""`hydra/launcher=submitit_local`: the same jobs as Slurm's, started by submitit on this machine, some at a time."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plainloop.config.explain.problems import Problem, invalid_run
from plainloop.run_dir.status import read_status
from plainloop.sweep.slurm import outcome, site
from plainloop.sweep.slurm.submission import folder_of, make_private, no_umask_of_zero, outside_of_a_job
from plainloop.sweep.slurm.task import Task

log = logging.getLogger("plainloop")

POLL_S = 0.2


def check(parameters: Mapping[str, Any]) -> None:
    """Raises InvalidConfig for what one machine has not."""
    found = list(site.number_problems(parameters))
    if parameters["nodes"] > 1:
        key = "hydra.launcher.nodes"
        found.append(Problem(key, "this machine is one node", str(parameters["nodes"]), "1", instead=f"{key}=1"))
    if found:
        raise invalid_run(found, [])


def launch(parameters: Mapping[str, Any], *, tasks: Mapping[int, Task]) -> tuple[dict[int, int], str]:
    """Runs the jobs, `array_parallelism` at a time; their exit codes, and the signal that ended the sweep early.

    Ctrl-C and SIGTERM are passed on: the jobs save and stop.
    """
    seen: list[str] = []
    before = {
        number: signal.signal(number, lambda got, frame: seen.append(signal.Signals(got).name))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    executor, waiting, running, passed_on = executor_of(parameters), list(tasks), dict[int, Any](), False
    try:
        while running or (waiting and not seen):
            while waiting and len(running) < parameters["array_parallelism"] and not seen:
                number = waiting.pop(0)
                running[number] = start(executor, tasks[number])
                log.info("job %d: pid %s, log %s", number, running[number].job_id, running[number].paths.stderr)
            if seen and not passed_on:
                passed_on = True
                for job in running.values():
                    job._process.send_signal(signal.SIGTERM)
            for number, job in list(running.items()):
                if job.done():
                    del running[number]
                    log.info("job %d: %s", number, read_status(tasks[number].folder).state)
            time.sleep(POLL_S)
    finally:
        for signal_, handler in before.items():
            signal.signal(signal_, handler)
    codes = {n: outcome.exit_code(read_status(task.folder)) for n, task in tasks.items() if n not in waiting}
    return codes, seen[0] if seen else ""


def start(executor: Any, task: Task) -> Any:
    # In a group of its own: the terminal's Ctrl-C comes from us alone.
    with no_umask_of_zero(), outside_of_a_job():
        return executor.submit(task)


def executor_of(parameters: Mapping[str, Any]) -> Any:
    import submitit

    folder = folder_of(parameters)
    make_private(folder)
    executor = submitit.LocalExecutor(folder=folder, python=python_command(parameters["gpus_per_node"]))
    told = {"tasks_per_node": parameters["tasks_per_node"], "timeout_min": parameters["timeout_min"]}
    told |= {key: parameters[key] for key in ("gpus_per_node", "setup") if parameters[key]}
    executor.update_parameters(**told, stderr_to_stdout=parameters["stderr_to_stdout"])
    return executor


def python_command(gpus: int | None) -> str:
    """As on Slurm: signals wait for their handlers, our packages are found. Without a number of GPUs a job sees them
    all, where submitit would hide them."""
    source = str(Path(__file__).resolve().parents[2])
    words = ["env", "--block-signal=USR2,TERM,INT"]
    if gpus is None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        words += ["-u", "CUDA_VISIBLE_DEVICES"] if given is None else [f"CUDA_VISIBLE_DEVICES={given}"]
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return shlex.join([*words, f"PYTHONPATH={path}", sys.executable])
