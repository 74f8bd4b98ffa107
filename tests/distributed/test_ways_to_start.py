"""However several processes are started, it is the same run in one directory, and they are gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from plainloop.config.compose.resume import saved_config
from plainloop.distributed import ranks
from plainloop.errors import BadConfig, Preempted
from plainloop.run_dir.status import read_status
from tests.harness import leftovers
from tests.harness.configs import ROOT
from tests.harness.runs import differences, remains

LONGEST_S = 120
RUN = ("model.width=4", "model.drop_rate=0.2", "data.batch_size=120", "trainer.duration=2ep", "device=cpu")
TRAIN = (sys.executable, str(ROOT / "train.py"))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable, **more}


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


def start(command: Sequence[str], folder: Path, env: dict[str, str], *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, *RUN, f"hydra.run.dir={folder}", *more],
        cwd=folder.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> str:
    said = "".join(process.communicate(timeout=LONGEST_S)[0] for process in processes)
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


@pytest.fixture(scope="module")
def by_devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `trainer.devices=2` started, and that left nothing but its directory."""
    folder, tmp = tmp_path_factory.mktemp("devices") / "run", tmp_path_factory.mktemp("tmp")
    before = leftovers.orphans()
    said = finish(start(TRAIN, folder, environment(TMPDIR=str(tmp)), "trainer.devices=2"))
    assert said.count("best val/top1") == 1
    assert list(tmp.iterdir()) == []
    assert leftovers.new_orphans(before) == set()
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


def test_torchrun(tmp_path: Path, by_devices: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", TRAIN[1])
    finish(start(torchrun, tmp_path / "run", environment()))
    same_run(tmp_path / "run", by_devices)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_torchrun_at_a_port_of_the_persons_choice(tmp_path: Path, by_devices: Path) -> None:
    place = ("--nnodes=1", f"--master-port={free_port()}", "--nproc-per-node=2")
    finish(start((sys.executable, "-m", "torch.distributed.run", *place, TRAIN[1]), tmp_path / "run", environment()))
    same_run(tmp_path / "run", by_devices)


def at_port(port: int, rank: int, **more: str) -> dict[str, str]:
    """What a person exports who starts every rank by hand."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return environment(**where, **dict(zip(ranks.OURS, map(str, (rank, 2, rank, 2)), strict=True)), **more)


def test_ranks_started_by_hand_meet_at_a_port_of_the_loopback(tmp_path: Path, by_devices: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    first = start(TRAIN, folder, at_port(port, 0))
    until_it_listens(port)
    assert set(listening({first.pid})) <= LOOPBACK
    finish(start(TRAIN, folder, at_port(port, 1)), first)
    same_run(folder, by_devices)


def until_it_listens(port: int) -> None:
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


def test_a_port_that_is_taken_is_told_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(TRAIN, tmp_path / "run", at_port(port, 0), "trainer.timeout_s=60")
        said, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == BadConfig.code, said
    assert f"MASTER_PORT={port} cannot be used: Address already in use" in said
    assert "leave MASTER_PORT out: the ranks find each other without it" in said


def test_notes_of_an_earlier_failure_are_swept_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.failed.1").mkdir()
    finish(start(TRAIN, tmp_path / "run", environment(), "trainer.devices=1"))
    assert not list((tmp_path / "run").glob(".failed.*"))


@pytest.mark.parametrize("place", [open_mpi, pytest.param(srun, marks=pytest.mark.slow)], ids=["mpirun", "srun"])
def test_processes_of_another_launcher(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, by_devices: Path, place: Callable[..., dict[str, str]]
) -> None:
    tmp = tmp_path_factory.mktemp("tmp")
    finish(*(start(TRAIN, tmp_path / "run", environment(TMPDIR=str(tmp), **place(rank, 2))) for rank in (1, 0)))
    same_run(tmp_path / "run", by_devices)
    assert list(tmp.iterdir()) == []


def test_dist_train_sh_twice_at_once_on_the_cpu(tmp_path: Path, by_devices: Path) -> None:
    script = (str(ROOT / "scripts/dist_train.sh"), "2")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    runs = [tmp_path / name / "run" for name in ("a", "b")]
    finish(*(start(script, folder, environment(CUDA_VISIBLE_DEVICES="")) for folder in runs))
    for folder in runs:
        same_run(folder, by_devices)


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


def until_it_trains(folder: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + LONGEST_S
    while (time.monotonic() < until and not (folder / "status.json").exists()) or read_status(folder).step == 0:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def test_listeners_are_on_loopback_and_a_signal_is_passed_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(TRAIN, folder, environment(), "trainer.devices=2", "trainer.duration=2000ep")
    until_it_trains(folder, process)
    workers = descendants(process.pid)
    assert len(workers) == 2
    addresses = listening(workers | {process.pid})
    assert len(addresses) >= 2
    assert set(addresses) <= LOOPBACK
    process.send_signal(signal.SIGUSR2)
    said, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == Preempted.code, said
    assert said.rstrip().splitlines()[-1].endswith(f"resume={folder}")
    assert read_status(folder).state == "PREEMPTED"
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_listener_on_all_interfaces_would_be_noticed() -> None:
    code = "import time, torch.distributed as d; s = d.TCPStore('localhost', 0, 1, True); print(flush=True); "
    code += "time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert not set(listening({process.pid})) <= LOOPBACK
    finally:
        process.kill()
        process.wait()


def test_workers_die_with_the_one_who_started_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(TRAIN, folder, environment(), "trainer.devices=2", "trainer.duration=2000ep")
    until_it_trains(folder, process)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    until = time.monotonic() + 5
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert read_status(folder).state == "LOST"
