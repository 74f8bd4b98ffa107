"""Jobs become array jobs of Slurm through submitit, which writes the batch script and the pickles."""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plainloop.errors import BadConfig
from plainloop.sweep.slurm import client
from plainloop.sweep.slurm.place import PORT
from plainloop.sweep.slurm.task import Task

MAX_ARRAY = 1000  # jobs of one array where the site does not say; Slurm's default MaxArraySize is 1001
SUBMITITS_NAMES = {"name": "job_name", "timeout_min": "time", "tasks_per_node": "ntasks_per_node"}
NOT_SUBMITITS = ("submitit_folder", "max_num_timeout", "wait", "python", "use_srun")


def folder_of(parameters: Mapping[str, Any]) -> Path:
    """submitit's folder. Without a last part like %j, which is not known yet when sbatch needs the folder."""
    folder = Path(str(parameters["submitit_folder"])).absolute()
    while "%" in folder.name:
        folder = folder.parent
    return folder


def known_keys() -> set[str]:
    """What hydra.launcher may hold: submitit's parameters, under the plugin's names, and ours."""
    import submitit

    ours = {*SUBMITITS_NAMES, *NOT_SUBMITITS, "mem_gb"}
    return submitit.SlurmExecutor._valid_parameters() - {*SUBMITITS_NAMES.values(), "mem"} | ours


class Submission:
    """Slurm's side of one sweep: the parameters, as the launcher's keys have them, and submitit's folder.

    Raises BadConfig when Slurm would refuse the job, or when others may write where the pickles lie.
    """

    def __init__(self, parameters: Mapping[str, Any], *, folder: Path) -> None:
        self.folder = folder
        self._told = submitit_parameters(parameters)
        self._python = python_command(parameters.get("python"), use_srun=parameters["use_srun"])

    def refused(self) -> str:
        """Why Slurm would not take such a job, or ""; asks sbatch, submits nothing and leaves nothing."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            executor = self._executor(Path(folder))
            script = Path(folder) / "test.sh"
            script.write_text(executor._make_submission_file_text(executor._submitit_command_str, "test"))
            return client.refused(script)

    def submit(self, tasks: Sequence[Task]) -> Iterator[list[str]]:
        """Submits them as one array, or several where the site allows no such long one; Slurm's jobs of each array.

        Raises SlurmError when sbatch refuses what it would have taken a moment ago.
        """
        from submitit.core.utils import FailedJobError

        make_private(self.folder)
        for some in chunks(tasks, longest_array()):
            executor = self._executor(self.folder)
            try:
                with no_umask_of_zero(), outside_of_a_job(), executor.batch():
                    jobs = [executor.submit(task) for task in some]
            except FailedJobError as error:
                said = re.sub(r"^(sbatch: )?(error: )?", "", str(error).strip(), flags=re.MULTILINE)
                raise client.SlurmError(
                    f"sbatch refused an array of {len(some)} jobs: {said.replace(chr(10), ': ')}",
                    hint="if it is a limit of how many jobs one may have: fewer at a time, and the same command again "
                    "for the rest; sacctmgr show associations user=$USER tells the limits",
                ) from error
            yield [job.job_id for job in jobs]

    def _executor(self, folder: Path) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(folder=folder, python=self._python)
        executor.update_parameters(**self._told)
        return executor


def submitit_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The launcher's keys as submitit's SlurmExecutor has them, with what a run needs in order to come back.

    A rank that dies ends the others; jobs may be requeued; srun, which since Slurm 22.05 does not look at sbatch's
    --cpus-per-task any more, is told it again.
    """
    told = {
        SUBMITITS_NAMES.get(key, key): value
        for key, value in parameters.items()
        if key not in NOT_SUBMITITS and not key.startswith("_") and value is not None
    }
    if "mem_gb" in told:
        told["mem"] = f"{round(1024 * told.pop('mem_gb'))}MB"
    told["setup"] = [*(told.get("setup") or []), port_line(parameters.get("python"))]
    told["wckey"] = parameters.get("wckey")  # submitit's own default is refused where wckeys are enforced
    told["use_srun"] = parameters["use_srun"]
    more = {"requeue": True, **(parameters.get("additional_parameters") or {})}
    if more["requeue"] is False:  # submitit would write --requeue=False
        more["no-requeue"] = not more.pop("requeue")
    arguments = ["--kill-on-bad-exit=1"]
    if parameters.get("cpus_per_task"):
        arguments.append(f"--cpus-per-task={parameters['cpus_per_task']}")
    if not parameters["use_srun"]:  # steps alone are signalled otherwise, and there is none
        more.setdefault("signal", f"B:USR2@{parameters['signal_delay_s']}")
    return told | {"additional_parameters": more, "srun_args": [*arguments, *(parameters.get("srun_args") or [])]}


def python_command(python: str | None, *, use_srun: bool) -> str:
    """What the batch script starts: signals wait until there are handlers for them, and our packages are found.

    Without srun the batch script's shell is replaced, so that the signals which Slurm sends to it reach the run.
    """
    source = shlex.quote(str(Path(__file__).resolve().parents[2]))
    words = f"env --block-signal=USR2,TERM,INT PYTHONPATH={source}${{PYTHONPATH:+:$PYTHONPATH}}"
    return f"{'' if use_srun else 'exec '}{words} {python or shlex.quote(sys.executable)}"


def port_line(python: str | None) -> str:
    """A line of the batch script: tasks that srun starts inherit the port. A shell's own is forgotten."""
    script = Path(__file__).with_name("port.py")
    return f"export {PORT}=$({python or shlex.quote(sys.executable)} -P {shlex.quote(str(script))})"


def longest_array() -> int:
    given = client.setting("MaxArraySize")
    return max(1, int(given) - 1) if given.isdigit() else MAX_ARRAY


def chunks(tasks: Sequence[Task], size: int) -> Iterator[Sequence[Task]]:
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def make_private(folder: Path) -> None:
    """Creates it for us alone: what is unpickled in the job must be ours. Raises BadConfig where others may write."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in (folder, folder.parent):
        found = place.stat()
        sticky = found.st_mode & stat.S_ISVTX and place != folder
        if found.st_uid != os.getuid() or (found.st_mode & 0o022 and not sticky):
            if place == folder and found.st_uid == os.getuid() and not any(folder.iterdir()):
                folder.chmod(0o700)
                continue
            raise BadConfig(
                f"hydra.launcher.submitit_folder={folder}: others may write in {place} "
                f"(mode {stat.S_IMODE(found.st_mode):04o}), and jobs unpickle what lies there",
                hint=f"chmod go-w {shlex.quote(str(place))}",
            )


@contextmanager
def no_umask_of_zero() -> Iterator[None]:
    """Group and others do not write what is made inside; sbatch hands the umask on to the job."""
    before = os.umask(0o022)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """A shell inside a job has SLURM_* that sbatch would take for options, and a place that is not the new jobs'."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SUBMITIT_", PORT)) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ |= hidden
