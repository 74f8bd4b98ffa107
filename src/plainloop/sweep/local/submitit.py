"""`hydra/launcher=submitit_local`: the jobs that Slurm would get, started by submitit on this machine."""

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
from plainloop.sweep.slurm.job import SlurmJob
from plainloop.sweep.slurm.submission import no_umask_of_zero, outside_of_a_job, own_folder
from plainloop.system.signals import signals_collected

log = logging.getLogger("plainloop")

POLL_S = 0.2


def check(parameters: Mapping[str, Any]) -> None:
    """Raises InvalidConfig for what one machine cannot run."""
    problems = list(site.number_problems(parameters))
    if parameters["nodes"] > 1:
        key = "hydra.launcher.nodes"
        problems.append(Problem(key, "this machine is one node", str(parameters["nodes"]), "1", instead=f"{key}=1"))
    if problems:
        raise invalid_run(problems, [])


def launch(parameters: Mapping[str, Any], jobs: Mapping[int, SlurmJob]) -> tuple[dict[int, int], str]:
    """Runs the jobs, `array_parallelism` at a time; their exit codes, and the signal that ended the sweep early.

    A signal is passed on as SIGTERM: the jobs save and stop.
    """
    executor, waiting, running, passed_on = make_executor(parameters), list(jobs), dict[int, Any](), False
    with signals_collected() as received:
        while running or (waiting and not received):
            while waiting and len(running) < parameters["array_parallelism"] and not received:
                number = waiting.pop(0)
                with no_umask_of_zero(), outside_of_a_job():
                    running[number] = executor.submit(jobs[number])
                log.info("job %d: pid %s, log %s", number, running[number].job_id, running[number].paths.stderr)
            if received and not passed_on:
                passed_on = True
                for started in running.values():  # in groups of their own: the terminal's Ctrl-C comes from us alone
                    started._process.send_signal(signal.SIGTERM)
            for number, started in list(running.items()):
                if started.done():
                    del running[number]
                    log.info("job %d: %s", number, read_status(jobs[number].folder).state)
            time.sleep(POLL_S)
    codes = {n: outcome.exit_code(read_status(job.folder)) for n, job in jobs.items() if n not in waiting}
    return codes, received[0].name if received else ""


def make_executor(parameters: Mapping[str, Any]) -> Any:
    import submitit

    executor = submitit.LocalExecutor(folder=own_folder(parameters), python=python_command(parameters["gpus_per_node"]))
    settings = {key: parameters[key] for key in ("tasks_per_node", "timeout_min", "stderr_to_stdout")}
    settings |= {key: parameters[key] for key in ("gpus_per_node", "setup") if parameters[key]}
    executor.update_parameters(**settings)
    return executor


def python_command(gpus: int | None) -> str:
    """Starts Python with signals blocked until they have handlers, and with the path that Slurm's jobs have.

    Args:
        gpus: None shows a job all GPUs, which submitit would hide.
    """
    source = Path(__file__).resolve().parents[3]
    words = ["env", "--block-signal=USR2,TERM,INT"]
    if gpus is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        words += ["-u", "CUDA_VISIBLE_DEVICES"] if visible is None else [f"CUDA_VISIBLE_DEVICES={visible}"]
    path = os.pathsep.join([str(source), str(source.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return shlex.join([*words, f"PYTHONPATH={path}", sys.executable, "-P"])
