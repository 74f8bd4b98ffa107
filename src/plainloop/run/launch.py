"""Starts as many processes as `trainer.devices` asks for, on this machine, and gives the result of the run.

Workers run `plainloop.run.worker` with the resolved config; Hydra is not started again. They share a private folder,
where they find each other and write results and failures. They have ended before `start` returns, and end when this
process does, whatever ends it. The first failure ends the run within `GRACE_S`.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from plainloop.config.check.machine import ranks_of
from plainloop.distributed import failures, ranks
from plainloop.distributed.failures import Failure, RankFailed
from plainloop.errors import LostPeer, Preempted
from plainloop.run_dir.status import write_end_of_dead_process
from plainloop.system import storage
from plainloop.system.signals import signals_blocked, signals_collected

LOOK_S = 0.05  # between two looks at the workers
SILENT_S = 1.0  # for a rank to write its failure after others have reported it lost
GRACE_S = 5.0  # for the others to end by themselves once one has failed
LEAVING_S = 30.0  # for the others to end once rank 0 is done
LAST_LINES = 20  # of a dead rank's output that the message shows


def start(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Trains in this process, alone or as one of the ranks that a launcher started, or in workers that it starts.

    Returns and raises what `run.run` does; the failure of a worker is RankFailed, with that failure's exit code.
    """
    ranks.read_launcher_variables()
    count = ranks_of(config)
    if "WORLD_SIZE" in os.environ or count == 1:
        from plainloop.run.run import run

        try:
            return run(on_one_device(config), folder)
        finally:
            ranks.remove_rendezvous_folder()
    assert folder is not None
    return start_workers(config, folder, count)


def on_one_device(config: dict[str, Any]) -> dict[str, Any]:
    """Makes the third visible GPU the current one for `trainer.devices=[2]`, which needs no worker."""
    devices = config["trainer"]["devices"]
    if isinstance(devices, list) and len(devices) == 1 and devices[0] and config["device"] in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(devices[0])
    return config


def start_workers(config: dict[str, Any], folder: Path, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="plainloop-", ignore_cleanup_errors=True) as name:
        shared = Path(name)
        job = {
            "config": config,
            "folder": str(folder.absolute()),
            "argv": sys.argv,
            "parent": os.getpid(),
            "logging": logging_of_hydra(),
        }
        (shared / "job.json").write_text(json.dumps(job))
        with signals_collected() as pending:
            workers = []
            try:
                with signals_blocked():  # workers unblock them once they have handlers
                    workers += [Worker.start(rank, count, shared, config) for rank in range(count)]
                watch(workers, shared, pending, timeout_s=config["trainer"]["timeout_s"])
            finally:
                for worker in workers:
                    worker.reap()
        return result(workers, shared, folder)


@dataclass
class Worker:
    """One rank. It and its data workers are a process group, so that a terminal's Ctrl-C reaches this process alone."""

    rank: int
    process: subprocess.Popen[bytes]
    shared: Path

    @classmethod
    def start(cls, rank: int, count: int, shared: Path, config: dict[str, Any]) -> Worker:
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            ranks.RENDEZVOUS: str(shared),
        }
        devices = config["trainer"]["devices"]
        if isinstance(devices, list):
            environment["CUDA_VISIBLE_DEVICES"] = visible_devices(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
        # Only rank 0 writes to the screen. The others' output is shown if one dies without a failure file.
        with contextlib.ExitStack() as files:
            output = None if rank == 0 else files.enter_context((shared / f"rank{rank}.out").open("ab"))
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plainloop.run.worker", str(shared)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(rank, process, shared)

    def has_ended(self) -> bool:
        """Does not reap the process, so that its pid, which names its group, cannot be reused yet."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """Kills what is left of its group; its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def send(self, number: int) -> None:
        if not self.has_ended():
            os.kill(self.process.pid, number)

    def last_output(self) -> str:
        path = self.shared / f"rank{self.rank}.out"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-LAST_LINES:])

    def stack(self) -> str:
        """Where it hangs: every thread's calls, newest first. A stopped process is continued for this."""
        state = Path(f"/proc/{self.process.pid}/stat")
        stopped = state.exists() and state.read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
        self.send(signal.SIGUSR1)
        self.send(signal.SIGCONT)
        time.sleep(0.3)
        path = self.shared / f"rank{self.rank}.stack"
        calls = path.read_text(errors="replace").strip() if path.exists() else ""
        return ("it was stopped (SIGSTOP)\n" if stopped else "") + calls


def watch(workers: list[Worker], shared: Path, pending: list[signal.Signals], *, timeout_s: float) -> None:
    """Passes signals on until all workers have ended, or the rest is to be killed: after a failure, or some time after
    rank 0 is done."""
    ended: dict[int, int] = {}
    failed_at = reported_at = done_at = None
    while True:
        while pending:
            for worker in workers:
                worker.send(pending[0])
            pending.pop(0)
        for worker in workers:
            if worker.rank not in ended and worker.has_ended():
                ended[worker.rank] = worker.reap()
                if not (shared / f"rank{worker.rank}.json").exists():
                    failures.write(shared, failure_of_dead_rank(worker, ended[worker.rank]))
        now = time.monotonic()
        failed = failures.read(shared)
        if failed and failed_at is None:
            failed_at = now
        if failed and failed[0].lost and failed_at is not None and now - failed_at > SILENT_S and reported_at is None:
            reported_at = now
            for worker in workers:
                if worker.rank not in ended and worker.rank not in {failure.rank for failure in failed}:
                    report_hanging_rank(worker, timeout_s)
        if 0 in ended and done_at is None:
            done_at = now
        if len(ended) == len(workers):
            return
        if failed_at is not None and now - failed_at > GRACE_S:
            return
        if done_at is not None and now - done_at > LEAVING_S:
            return
        time.sleep(LOOK_S)


def failure_of_dead_rank(worker: Worker, code: int) -> Failure:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code} and no message"
    hint = ""
    if code == -signal.SIGKILL:
        hint = "if nobody killed it, memory ran out: fewer data.num_workers, or a smaller batch by trainer.accumulate"
    return Failure(worker.rank, how, LostPeer.code, LostPeer.reason, hint, worker.last_output())


def report_hanging_rank(worker: Worker, timeout_s: float) -> None:
    """Writes that a rank hangs, and where, and kills it."""
    what = f"did not answer the others for {timeout_s:g} s (trainer.timeout_s)"
    hint = "the lines above name where it hangs; if that is slow, but right: a longer trainer.timeout_s"
    failure = Failure(worker.rank, what, LostPeer.code, LostPeer.reason, hint)
    failures.write(worker.shared, failure)  # first: `stack` continues it, and it would report lost peers
    failures.write(worker.shared, replace(failure, trace=worker.stack()), again=True)
    worker.send(signal.SIGKILL)


def result(workers: list[Worker], shared: Path, folder: Path) -> dict[str, Any]:
    """Rank 0's summary. Raises RankFailed, KeyboardInterrupt or Preempted as the ranks did."""
    failed = failures.read(shared)
    endings = [storage.read_json(shared / f"rank{worker.rank}.json") or {} for worker in workers]
    if all(failure.lost for failure in failed) and any(ending.get("ending") == "interrupted" for ending in endings):
        raise KeyboardInterrupt
    if failed:
        error = RankFailed(failed[0])
        end = {"reason": error.reason, "hint": error.hint, "exit_code": error.code}
        write_end_of_dead_process(folder, pid=workers[0].process.pid, message=str(error), **end)
        raise error
    if endings[0]["ending"] == "preempted":
        raise Preempted(endings[0]["step"], Path(endings[0]["folder"]))
    summary: dict[str, Any] = endings[0]["summary"]
    return summary


def visible_devices(wanted: list[int], visible: str | None) -> str:
    """The value of CUDA_VISIBLE_DEVICES for the wanted ones of the visible devices.

    >>> visible_devices([0, 3], None), visible_devices([0, 2], "4,5,7"), visible_devices([0, 1], "")
    ('0,3', '4,7', '')
    """
    if visible is None:
        return ",".join(map(str, wanted))
    names = [name for name in visible.split(",") if name]
    return ",".join(names[number] for number in wanted if number < len(names))


def logging_of_hydra() -> dict[str, Any] | None:
    """How Hydra made this process log, for rank 0 to log to the same file; None without Hydra."""
    if not HydraConfig.initialized():
        return None
    node = HydraConfig.get().job_logging
    return OmegaConf.to_container(node, resolve=True) if node is not None else None  # type: ignore[return-value]
