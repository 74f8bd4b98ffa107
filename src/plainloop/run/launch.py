"""From one process to as many as `trainer.devices` asks for, on this machine, and back to one result.

Workers are processes of their own that run `plainloop.run.worker` with the resolved config; Hydra is not started again.
They meet in a private folder, where they find each other, leave their results, and say why they failed. They are gone
before `start` returns, and die with this process, however it dies. The first failure ends the run within `GRACE_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from plainloop.config.check.machine import ranks_of
from plainloop.distributed import failures, ranks
from plainloop.distributed.failures import Failure, RankFailed
from plainloop.errors import LostPeer, Preempted
from plainloop.run_dir.status import write_end_of_dead_process
from plainloop.system import storage
from plainloop.system.signals import SIGNALS, signals_blocked

LOOK_S = 0.05  # between two looks at the workers
SILENT_S = 1.0  # for a rank to speak up after others have waited in vain for it
GRACE_S = 5.0  # for the others to leave by themselves once one has failed
LEAVING_S = 30.0  # for the others to leave once rank 0 is done
LAST_LINES = 20  # of what a rank wrote before it died


def start(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Trains on this process alone, or as one rank of those that were started already, or on workers of its own.

    What it gives and raises is what `run.run` does; a rank's failure is RankFailed, with that failure's exit code.
    """
    ranks.adopt()
    count = ranks_of(config)
    if "WORLD_SIZE" in os.environ or count == 1:
        from plainloop.run.run import run

        try:
            return run(on_one_device(config), folder)
        finally:
            ranks.leave()
    assert folder is not None
    return start_workers(config, folder, count)


def on_one_device(config: dict[str, Any]) -> dict[str, Any]:
    """`trainer.devices=[2]` needs no worker: the third visible GPU becomes the one in use."""
    devices = config["trainer"]["devices"]
    if isinstance(devices, list) and len(devices) == 1 and devices[0] and config["device"] in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(devices[0])
    return config


def start_workers(config: dict[str, Any], folder: Path, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="plainloop-", ignore_cleanup_errors=True) as meeting_name:
        meeting = Path(meeting_name)
        job = {
            "config": config,
            "folder": str(folder.absolute()),
            "argv": sys.argv,
            "parent": os.getpid(),
            "logging": logging_of_hydra(),
        }
        (meeting / "job.json").write_text(json.dumps(job))
        with forwarding() as pending:
            workers = []
            try:
                with signals_blocked():  # workers let them through once they have handlers
                    workers += [Worker.start(rank, count, meeting, config) for rank in range(count)]
                watch(workers, meeting, pending, timeout_s=config["trainer"]["timeout_s"])
            finally:
                for worker in workers:
                    worker.kill()
        return result(workers, meeting, folder)


@dataclass
class Worker:
    """One rank. It and its data workers are a group of their own, so that a terminal's Ctrl-C reaches us alone."""

    rank: int
    process: subprocess.Popen[bytes]
    meeting: Path

    @classmethod
    def start(cls, rank: int, count: int, meeting: Path, config: dict[str, Any]) -> Worker:
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            ranks.MEETING: str(meeting),
        }
        devices = config["trainer"]["devices"]
        if isinstance(devices, list):
            environment["CUDA_VISIBLE_DEVICES"] = visible_devices(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
        # Rank 0 speaks for all; the others' words are shown if one dies without a note.
        with contextlib.ExitStack() as files:
            output = None if rank == 0 else files.enter_context((meeting / f"rank{rank}.out").open("ab"))
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plainloop.run.worker", str(meeting)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(rank, process, meeting)

    def has_ended(self) -> bool:
        """Leaves what has ended unburied, so that its number, and that of its group, stay its own."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def bury(self) -> int:
        """Ends what is left of its group; its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def kill(self) -> None:
        self.bury()

    def send(self, number: int) -> None:
        if not self.has_ended():
            os.kill(self.process.pid, number)

    def last_words(self) -> str:
        path = self.meeting / f"rank{self.rank}.out"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-LAST_LINES:])

    def stack(self) -> str:
        """Where it hangs: every thread's calls, newest first. A stopped process goes on for that moment."""
        state = Path(f"/proc/{self.process.pid}/stat")
        stopped = state.exists() and state.read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
        self.send(signal.SIGUSR1)
        self.send(signal.SIGCONT)
        time.sleep(0.3)
        path = self.meeting / f"rank{self.rank}.stack"
        told = path.read_text(errors="replace").strip() if path.exists() else ""
        return ("it was stopped (SIGSTOP)\n" if stopped else "") + told


def watch(workers: list[Worker], meeting: Path, pending: list[int], *, timeout_s: float) -> None:
    """Returns when all have ended, or when the rest is to be killed: after a failure, or long after rank 0 is done."""
    ended: dict[int, int] = {}
    failed_at = accused_at = done_at = None
    while True:
        while pending:
            for worker in workers:
                worker.send(pending[0])
            pending.pop(0)
        for worker in workers:
            if worker.rank not in ended and worker.has_ended():
                ended[worker.rank] = worker.bury()
                if not (meeting / f"rank{worker.rank}.json").exists():
                    failures.note(meeting, gone_without_a_word(worker, ended[worker.rank]))
        now = time.monotonic()
        notes = failures.read(meeting)
        if notes and failed_at is None:
            failed_at = now
        if notes and notes[0].lost and failed_at is not None and now - failed_at > SILENT_S and accused_at is None:
            accused_at = now
            spoken = {note.rank for note in notes}
            for worker in workers:
                if worker.rank not in spoken and worker.rank not in ended:
                    accuse(worker, timeout_s)
        if 0 in ended and done_at is None:
            done_at = now
        if len(ended) == len(workers):
            return
        if failed_at is not None and now - failed_at > GRACE_S:
            return
        if done_at is not None and now - done_at > LEAVING_S:
            return
        time.sleep(LOOK_S)


def gone_without_a_word(worker: Worker, code: int) -> Failure:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code} without a word"
    hint = ""
    if code == -signal.SIGKILL:
        hint = "if nobody killed it, memory ran out: fewer data.num_workers, or a smaller batch by trainer.accumulate"
    words = worker.last_words()
    return Failure(worker.rank, how, LostPeer.code, LostPeer.reason, hint, words, time=time.time())


def accuse(worker: Worker, timeout_s: float) -> None:
    """Notes that a rank hangs, and where, and ends it."""
    what = f"did not answer the others for {timeout_s:g} s (trainer.timeout_s)"
    hint = "the lines above name where it hangs; if that is slow, but right: a longer trainer.timeout_s"
    failure = Failure(worker.rank, what, LostPeer.code, LostPeer.reason, hint, time=time.time())
    failures.note(worker.meeting, failure)  # first: a stopped process that goes on would say that it lost the others
    failures.note(worker.meeting, replace(failure, trace=worker.stack()), again=True)
    worker.send(signal.SIGKILL)


def result(workers: list[Worker], meeting: Path, folder: Path) -> dict[str, Any]:
    """Rank 0's summary. Raises RankFailed, KeyboardInterrupt or Preempted as the ranks did."""
    notes = failures.read(meeting)
    endings = [storage.read_json(meeting / f"rank{worker.rank}.json") or {} for worker in workers]
    if all(failure.lost for failure in notes) and any(ending.get("ending") == "interrupted" for ending in endings):
        raise KeyboardInterrupt
    if notes:
        first = notes[0]
        error = RankFailed(first)
        words = {"reason": error.reason, "hint": error.hint, "exit_code": error.code}
        write_end_of_dead_process(folder, pid=workers[0].process.pid, message=str(error), **words)
        raise error
    if endings[0]["ending"] == "preempted":
        raise Preempted(endings[0]["step"], Path(endings[0]["folder"]))
    summary: dict[str, Any] = endings[0]["summary"]
    return summary


@contextmanager
def forwarding() -> Iterator[list[int]]:
    """Signals that arrive inside the block are put down in a list, for the workers, and do nothing else here."""
    pending: list[int] = []

    def put_down(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            pending.append(number)

    ours = os.getpid()
    before = {number: signal.signal(number, put_down) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield pending
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


def visible_devices(wanted: list[int], visible: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES becomes: the wanted ones of those that are visible.

    >>> visible_devices([0, 3], None), visible_devices([0, 2], "4,5,7"), visible_devices([0, 1], "")
    ('0,3', '4,7', '')
    """
    if visible is None:
        return ",".join(map(str, wanted))
    names = [name for name in visible.split(",") if name]
    return ",".join(names[number] for number in wanted if number < len(names))


def logging_of_hydra() -> dict[str, Any] | None:
    """How this process logs, if Hydra has set that up: rank 0 goes on in the same file."""
    if not HydraConfig.initialized():
        return None
    node = HydraConfig.get().job_logging
    return OmegaConf.to_container(node, resolve=True) if node is not None else None  # type: ignore[return-value]
