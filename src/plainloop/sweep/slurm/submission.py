"""Submits jobs as arrays through submitit, which writes the batch script and the pickles."""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plainloop.errors import BadConfig
from plainloop.sweep.slurm import client
from plainloop.sweep.slurm.job import SlurmJob
from plainloop.sweep.slurm.place import PORT
from plainloop.sweep.slurm.submitted import mark
from plainloop.system.signals import signals_blocked

MAX_ARRAY = 1000  # jobs of one array where the site does not say; Slurm's default MaxArraySize is 1001
SUBMITITS_NAMES = {"name": "job_name", "timeout_min": "time", "tasks_per_node": "ntasks_per_node"}
NOT_SUBMITITS = ("submitit_folder", "max_num_timeout", "wait", "python", "use_srun")


def log_folder(parameters: Mapping[str, Any]) -> Path:
    """submitit's folder, without a last part like %j, which is not known when sbatch needs the folder."""
    folder = Path(str(parameters["submitit_folder"])).absolute()
    while "%" in folder.name:
        folder = folder.parent
    return folder


def known_keys() -> set[str]:
    """The keys of hydra.launcher: submitit's parameters under the plugin's names, and ours."""
    import submitit

    ours = {*SUBMITITS_NAMES, *NOT_SUBMITITS, "mem_gb"}
    return submitit.SlurmExecutor._valid_parameters() - {*SUBMITITS_NAMES.values(), "mem"} | ours


class Submission:
    """Submits with the parameters that the launcher's keys give, from submitit's folder."""

    def __init__(self, parameters: Mapping[str, Any], *, folder: Path) -> None:
        self.folder = folder
        self._settings = submitit_parameters(parameters)
        self._python = python_command(parameters.get("python"), use_srun=parameters["use_srun"])

    def refused(self) -> str:
        """Why Slurm would refuse such a job, or ""; asks sbatch, submits nothing and leaves no files."""
        with tempfile.TemporaryDirectory() as folder:
            executor = self._executor(Path(folder))
            script = Path(folder) / "test.sh"
            script.write_text(executor._make_submission_file_text(executor._submitit_command_str, "test"))
            return client.refused(script)

    def submit(self, jobs: Mapping[int, SlurmJob], sweep: Path) -> dict[int, str]:
        """Submits an array, which is no longer than `longest_array`; its Slurm jobs by number.

        Raises SlurmError when sbatch refuses an array that its test accepted.
        """
        from submitit.core.utils import FailedJobError

        executor = self._executor(self.folder)
        executor.update_parameters(setup=[mark(sweep, jobs), *self._settings["setup"]])
        try:
            # The terminal's Ctrl-C reaches sbatch too, which would end without saying whether it has submitted.
            with signals_blocked(), no_umask_of_zero(), outside_of_a_job(), executor.batch():
                submitted = [executor.submit(job) for job in jobs.values()]
        except FailedJobError as error:
            said = re.sub(r"^(sbatch: )?(error: )?", "", str(error).strip(), flags=re.MULTILINE)
            raise client.SlurmError(
                f"sbatch refused an array of {len(jobs)} jobs: {said.replace(chr(10), ': ')}",
                hint="if the number of jobs is limited: submit fewer at a time, then type the same command again "
                "for the rest; your limits are listed by: sacctmgr show associations user=$USER",
            ) from error
        return {number: job.job_id for number, job in zip(jobs, submitted, strict=True)}

    def _executor(self, folder: Path) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(folder=folder, python=self._python)
        executor.update_parameters(**self._settings)
        return executor


def submitit_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The launcher's keys as submitit's SlurmExecutor takes them, and what a run needs to be requeued.

    A rank that dies ends the others, and jobs may be requeued. srun gets --cpus-per-task too: since Slurm 22.05 it
    ignores that of sbatch.
    """
    settings = {
        SUBMITITS_NAMES.get(key, key): value
        for key, value in parameters.items()
        if key not in NOT_SUBMITITS and not key.startswith("_") and value is not None
    }
    if "mem_gb" in settings:
        settings["mem"] = f"{round(1024 * settings.pop('mem_gb'))}MB"
    settings["setup"] = [*(settings.get("setup") or []), port_line(parameters.get("python"))]
    settings["wckey"] = parameters.get("wckey")  # submitit's own default is refused where wckeys are enforced
    settings["use_srun"] = parameters["use_srun"]
    more = {"requeue": True, **(parameters.get("additional_parameters") or {})}
    if more["requeue"] is False:  # submitit would write --requeue=False
        more["no-requeue"] = not more.pop("requeue")
    arguments = ["--kill-on-bad-exit=1"]
    if parameters.get("cpus_per_task"):
        arguments.append(f"--cpus-per-task={parameters['cpus_per_task']}")
    if not parameters["use_srun"]:  # by default only steps get the signal, and there is none
        more.setdefault("signal", f"B:USR2@{parameters['signal_delay_s']}")
    return settings | {"additional_parameters": more, "srun_args": [*arguments, *(parameters.get("srun_args") or [])]}


def python_command(python: str | None, *, use_srun: bool) -> str:
    """Starts Python with signals blocked until they have handlers. Its path begins with our packages and the clone,
    not with the folder where the command was typed, which may be somebody else's.

    Without srun it replaces the batch script's shell, which gets Slurm's signals.
    """
    source = Path(__file__).resolve().parents[3]
    path = shlex.quote(f"{source}:{source.parent}")
    words = f"env --block-signal=USR2,TERM,INT PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}"
    return f"{'' if use_srun else 'exec '}{words} {python or shlex.quote(sys.executable)} -P"


def port_line(python: str | None) -> str:
    """A line of the batch script that sets the port, which the tasks of srun inherit."""
    script = Path(__file__).with_name("port.py")
    return f"export {PORT}=$({python or shlex.quote(sys.executable)} -P {shlex.quote(str(script))})"


def longest_array() -> int:
    given = client.setting("MaxArraySize")
    return max(1, int(given) - 1) if given.isdigit() else MAX_ARRAY


def chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def own_folder(parameters: Mapping[str, Any]) -> Path:
    """The folder that this submission's pickles and logs get for themselves: submitit's, or a new one in it.

    A pickle that lies in a received folder under the name of the next Slurm job would be run, and a link would be
    written through. Raises BadConfig where others can write.
    """
    folder = log_folder(parameters)
    make_private(folder)
    return Path(tempfile.mkdtemp(prefix="again-", dir=folder)) if any(folder.iterdir()) else folder


def make_private(folder: Path) -> None:
    """Creates the folder of the pickles for its owner alone. Raises BadConfig where others can write."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in (folder, folder.parent):
        status = place.stat()
        sticky = status.st_mode & stat.S_ISVTX and place != folder
        if status.st_uid != os.getuid() or (status.st_mode & 0o022 and not sticky):
            if place == folder and status.st_uid == os.getuid() and not any(folder.iterdir()):
                folder.chmod(0o700)
                continue
            raise BadConfig(
                f"hydra.launcher.submitit_folder={folder}: others can write to {place} "
                f"(mode {stat.S_IMODE(status.st_mode):04o}), and jobs unpickle files from there",
                hint=f"chmod go-w {shlex.quote(str(place))}",
            )


@contextmanager
def no_umask_of_zero() -> Iterator[None]:
    """Group and others cannot write files made inside the block; sbatch passes the umask to the job."""
    before = os.umask(0o022)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Hides the SLURM_* variables of a shell inside a job: sbatch would take them for options of the new job."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SUBMITIT_", PORT)) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ |= hidden
