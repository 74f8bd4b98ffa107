"""However several processes are started, it is the same run in one directory, and they are gone afterwards."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from plainloop.config.compose.resume import saved_config
from plainloop.distributed import ranks
from plainloop.errors import BadConfig, Preempted
from plainloop.run_dir.status import read_status
from tests.harness.children import LONGEST_S, Child, runs, wait_for
from tests.harness.configs import ROOT
from tests.harness.disks import disk
from tests.harness.runs import differences, remains, start

RUN = ("model.width=4", "model.drop_rate=0.2", "data.batch_size=120", "trainer.duration=2ep", "device=cpu")


def open_mpi(rank: int, ranks: int) -> dict[str, str]:
    """What mpirun gives each process."""
    words = {"RANK": rank, "SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_SIZE": ranks}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in words.items()}


def srun(rank: int, ranks: int) -> dict[str, str]:
    words = {
        "PROCID": rank,
        "STEP_NUM_TASKS": ranks,
        "LOCALID": rank,
        "STEP_NUM_NODES": 1,
        "JOB_ID": os.getpid(),
        "STEP_ID": 0,
    }
    return {f"SLURM_{name}": str(value) for name, value in words.items()}


def train(folder: Path, *more: str, prepare: Callable[[], None] = lambda: None, **env: str) -> Child:
    """`python train.py` for the run of these tests."""

    def with_environment() -> None:
        os.environ |= env
        prepare()

    return start(folder.parent, *RUN, f"hydra.run.dir={folder}", *more, prepare=with_environment)


def finish(*processes: Child) -> str:
    ended = [process.wait() for process in processes]
    assert [one.code for one in ended] == [0] * len(ended), ended
    return "".join(one.out for one in ended)


@pytest.fixture(scope="module")
def by_devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `trainer.devices=2` started, and that left nothing but its directory."""
    folder, tmp = tmp_path_factory.mktemp("devices") / "run", tmp_path_factory.mktemp("tmp")
    with disk(Path("/dev/shm"), size="256m") as memory:
        said = finish(train(folder, "trainer.devices=2", prepare=memory.enter, TMPDIR=str(tmp)))
        assert list(memory.seen.iterdir()) == list(tmp.iterdir()) == []
    assert said.count("best val/top1") == 1
    return folder


def same_run(folder: Path, as_in: Path) -> None:
    assert differences(remains(as_in), remains(folder)) == []
    files = {path.name for path in as_in.iterdir()}
    assert {path.name for path in folder.iterdir()} == files
    assert [path.name for path in folder.glob("*.log")] == ["train.log"]
    assert {path.name for path in folder.parent.iterdir()} == {"run"}
    assert (folder / "train.log").read_text().count("best val/top1") == 1


def test_the_directory_is_like_any_other(by_devices: Path) -> None:
    assert read_status(by_devices).state == "DONE"
    assert saved_config(by_devices)["data"]["batch_size"] == 120
    assert {"config.yaml", ".hydra", "train.log", "summary.json", "metrics.jsonl"} <= set(os.listdir(by_devices))


def type_in(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.parent.mkdir(exist_ok=True)
    words = [*command, *RUN, f"hydra.run.dir={folder}"]
    env = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(words, cwd=folder.parent, env=env, stdout=subprocess.DEVNULL)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")


def test_torchrun_and_dist_train_sh_at_once(tmp_path: Path, by_devices: Path) -> None:
    torchrun = type_in((*TORCHRUN, "--standalone", str(ROOT / "train.py")), tmp_path / "a/run")
    script = type_in((str(ROOT / "scripts/dist_train.sh"), "2"), tmp_path / "b/run")
    assert [process.wait(LONGEST_S) for process in (torchrun, script)] == [0, 0]
    same_run(tmp_path / "a/run", by_devices)
    same_run(tmp_path / "b/run", by_devices)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
def test_torchrun_at_a_port_of_the_persons_choice(tmp_path: Path, by_devices: Path) -> None:
    place = ("--nnodes=1", f"--master-port={free_port()}")
    assert type_in((*TORCHRUN, *place, str(ROOT / "train.py")), tmp_path / "run").wait(LONGEST_S) == 0
    same_run(tmp_path / "run", by_devices)


def at_port(port: int, rank: int) -> dict[str, str]:
    """What a person exports who starts every rank by hand."""
    place = dict(zip(ranks.OURS, map(str, (rank, 2, rank, 2)), strict=True))
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | place


def test_ranks_started_by_hand_meet_at_a_port_of_the_loopback(tmp_path: Path, by_devices: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    first = train(folder, **at_port(port, 0))
    assert first.until(functools.partial(answers, port))
    assert set(listening({first.pid})) <= LOOPBACK
    finish(train(folder, **at_port(port, 1)), first)
    same_run(folder, by_devices)


def answers(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_port_that_is_taken_is_told_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = train(tmp_path / "run", "trainer.timeout_s=60", **at_port(port, 0)).wait()
    assert ended.code == BadConfig.code, ended
    assert f"MASTER_PORT={port} cannot be used: Address already in use" in ended.err
    assert "leave MASTER_PORT out: the ranks find each other without it" in ended.err


def test_notes_of_an_earlier_failure_are_swept_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "run/.failed.1").mkdir(parents=True)
    finish(train(tmp_path / "run", "trainer.devices=1"))
    assert not list((tmp_path / "run").glob(".failed.*"))


@pytest.mark.parametrize("place", [open_mpi, srun], ids=["mpirun", "srun"])
def test_processes_of_another_launcher(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, by_devices: Path, place: Callable[..., dict[str, str]]
) -> None:
    tmp = tmp_path_factory.mktemp("tmp")
    finish(*(train(tmp_path / "run", TMPDIR=str(tmp), **place(rank, 2)) for rank in (1, 0)))
    same_run(tmp_path / "run", by_devices)
    assert list(tmp.iterdir()) == []


def test_dist_train_sh_says_what_it_needs() -> None:
    done = subprocess.run([ROOT / "scripts/dist_train.sh", "optimizer=sgd"], capture_output=True, text=True)
    assert done.returncode == 64
    assert 'got "optimizer=sgd"' in done.stderr


def descendants(pid: int) -> set[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        mine = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
        return mine | {other for child in mine for other in descendants(child)}
    return set()


def listening(pids: set[int]) -> list[str]:
    """Addresses (hexadecimal, as the kernel shows them) on which some processes accept connections."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(link))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.append(words[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture
def in_training(tmp_path: Path) -> Iterator[tuple[Path, Child, set[int]]]:
    """The folder of a long run, the process that was started, and its two workers."""
    folder = tmp_path / "run"
    process = train(folder, "trainer.devices=2", "trainer.duration=2000ep")
    assert process.until(lambda: (folder / "status.json").exists() and read_status(folder).step), process.wait()
    workers = descendants(process.pid)
    assert len(workers) == 2
    yield folder, process, workers
    process.kill(signal.SIGKILL)
    process.wait()


def test_listeners_are_on_loopback_and_a_signal_is_passed_on(in_training: tuple[Path, Child, set[int]]) -> None:
    folder, process, workers = in_training
    addresses = listening(workers | {process.pid})
    assert len(addresses) >= 2
    assert set(addresses) <= LOOPBACK
    process.kill(signal.SIGUSR2)
    ended = process.wait()
    assert ended.code == Preempted.code, ended
    assert ended.last_line.endswith(f"resume={folder}")
    assert read_status(folder).state == "PREEMPTED"
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_listener_on_all_interfaces_would_be_noticed() -> None:
    import torch.distributed as dist

    store = dist.TCPStore("localhost", 0, 1, True)
    assert not set(listening({os.getpid()})) <= LOOPBACK
    del store


def test_workers_die_with_the_one_who_started_them(in_training: tuple[Path, Child, set[int]]) -> None:
    folder, process, workers = in_training
    process.kill(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(runs, workers)))
    assert read_status(folder).state == "LOST"
