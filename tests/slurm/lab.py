"""A real Slurm on this machine's loopback, and jobs on it that are disturbed."""

from __future__ import annotations

import contextlib
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plainloop.run_dir.status import Status, read_status
from plainloop.sweep.slurm import client, submitted
from plainloop.system import storage

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tests/slurm/cluster.sh"
PATIENCE_S = 240.0  # for anything; a shared machine may be slow

# A run of two ranks on two nodes: some seconds of steps, dropout, random augmentation, an evaluation each epoch.
RUN = (
    "data=digits",
    "model.drop_rate=0.2",
    "augment=crop_flip",
    "plugins=[tests.slurm.parts]",
    "+augment.slow={_target_: tests.slurm.parts.slow, _partial_: true, seconds: 0.1}",
    "trainer.duration=60st",
    "trainer.eval_every=25st",
    "trainer.save_every=20st",
    "trainer.ema_decay=0.9",
)
TWO_NODES = ("hydra.launcher.nodes=2", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10")

HELD = "+hydra.launcher.additional_parameters.hold=true"  # until everything is ready for it: submitting takes its time


@dataclass(frozen=True)
class Answer:
    code: int
    text: str  # stdout and stderr


@dataclass(frozen=True)
class Job:
    """One job of a sweep that was submitted."""

    folder: Path
    number: int
    slurm: str

    @property
    def run(self) -> Path:
        return self.folder / str(self.number)

    @property
    def status(self) -> Status:
        return read_status(self.run)

    def release(self) -> None:
        """Lets a job go that was submitted with HELD."""
        assert client.call("scontrol", "release", self.slurm).returncode == 0

    @property
    def state(self) -> str:
        return client.states([self.slurm])[self.slurm].state

    @property
    def raw(self) -> str:
        """The number that commands which know no arrays take."""
        return client.show(self.slurm)["JobId"]

    def log(self, rank: int = 0) -> str:
        paths = sorted((self.folder / ".submitit").rglob(f"{self.slurm}_{rank}_log.*"))
        return "".join(path.read_text(errors="replace") for path in paths)

    def attempts(self) -> list[str]:
        """How each attempt ended, in order."""
        return [row["state"] for row in storage.read_lines(self.run / "attempts.jsonl") if "ended" in row]

    def starts(self) -> int:
        """Attempts that have begun."""
        return sum("started" in row for row in storage.read_lines(self.run / "attempts.jsonl"))


class Lab:
    """The cluster, for the time of a test session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cluster(self, *arguments: str, **settings: str) -> None:
        command, *rest = arguments
        whole = [str(CLUSTER), command, str(self.folder), *rest]
        done = subprocess.run(whole, env=os.environ | settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def train(self, *arguments: str, at: Path, wait: bool = False) -> Answer:
        """python train.py -m hydra/launcher=submitit_slurm ..., in a fork, which has torch imported already."""
        words = command(*arguments, f"hydra.launcher.wait={str(wait).lower()}")[1:]
        output = at / f"driver-{time.monotonic_ns()}.log"
        pid = os.fork()
        if pid == 0:
            drive(words, at=at, output=output)
        _, status = os.waitpid(pid, 0)
        return Answer(os.waitstatus_to_exitcode(status), output.read_text())

    def submit(self, *arguments: str, folder: Path) -> list[Job]:
        """The jobs of a sweep that is submitted and not waited for."""
        answer = self.train(*arguments, f"hydra.sweep.dir={folder}", at=folder.parent)
        assert answer.code == 0, answer.text
        return jobs_of(folder)


def drive(words: list[str], *, at: Path, output: Path) -> None:
    """Becomes train.py. Does not return."""
    code = 99
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.chdir(at)
        os.environ |= environment()
        sys.path.insert(0, str(ROOT))
        sys.argv = words
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "-m", "hydra/launcher=submitit_slurm", *arguments]


def sweep(*arguments: str | Path) -> Answer:
    """python scripts/sweep.py ..."""
    words = [sys.executable, str(ROOT / "scripts/sweep.py"), *map(str, arguments)]
    done = subprocess.run(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S
    )
    return Answer(done.returncode, done.stdout)


def accounted() -> int:
    """Jobs that Slurm has ever been given here."""
    return len(client.call("sacct", "-X", "-n", "-S", "now-1day", "-o", "JobID").stdout.split())


def environment() -> dict[str, str]:
    """This tree's packages and tests in the jobs too, which inherit it."""
    return os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}


def jobs_of(folder: Path) -> list[Job]:
    return [Job(folder, number, job) for number, job in sorted(submitted.read(folder).items())]


def wait_until(what: str, true: Callable[[], object], *, timeout: float = PATIENCE_S, every: float = 0.2) -> None:
    until = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < until, f"{what} did not happen within {timeout:.0f} s"
        time.sleep(every)


def reached(job: Job, step: int) -> bool:
    status = job.status
    return status.state == "RUNNING" and status.step >= step


def until_over(
    jobs: list[Job], *, each: Callable[[], None] = lambda: None, timeout: float = PATIENCE_S
) -> dict[Job, str]:
    """Slurm's last word on each. A requeued job is let go at once instead of after two minutes."""
    states: dict[Job, str] = {}

    def over() -> bool:
        each()
        seen = client.states(job.slurm for job in jobs)
        for job in jobs:
            states[job] = seen[job.slurm].state
            if seen[job.slurm].state == "PENDING" and seen[job.slurm].reason == "BeginTime":
                client.call("scontrol", "update", f"jobid={job.slurm}", "StartTime=now")
        return all(seen[job.slurm].ended for job in jobs)

    wait_until(f"the end of {[job.slurm for job in jobs]}", over, timeout=timeout)
    return states


@contextlib.contextmanager
def cluster(folder: Path, **settings: str) -> Iterator[Lab]:
    """From nothing, and nothing left of it."""
    lab = Lab(folder)
    subprocess.run([str(CLUSTER), "install"], check=True, timeout=600)
    before = os.environ.get("SLURM_CONF")
    try:
        lab.cluster("start", **settings)
        os.environ["SLURM_CONF"] = str(folder / "etc/slurm.conf")
        yield lab
    finally:
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        lab.cluster("wipe")
