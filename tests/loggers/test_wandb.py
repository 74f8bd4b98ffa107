"""wandb offline, read back with wandb's own reader; kills, signals and secrets."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.loggers import wandb as subject
from plainloop.loggers.wandb_file import newest_step, records

SOURCE = str(Path(subject.__file__).parents[2])

# argv: folder, from step, to step, what happens then.
RUN = """
import logging, os, signal, sys, time
from pathlib import Path
from plainloop.loggers.jsonl import Jsonl
from plainloop.loggers.wandb import Wandb

def helper():
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return next(int(pid) for pid in mine if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes())

if "leaky" in sys.argv:
    import plainloop.loggers.wandb
    plainloop.loggers.wandb.KEEP_OUT.clear()
logging.basicConfig(level="INFO")
folder, start, stop, then = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
folder.mkdir(exist_ok=True, parents=True)
for name in ("SIGINT", "SIGTERM", "SIGUSR2"):
    signal.signal(getattr(signal, name), lambda number, frame: None)
loggers = [Jsonl(), Wandb(project="laws", tags=["a"])]
for logger in loggers:
    logger.start(folder, {"seed": 3, "model": {"name": "tiny"}, "optimizer": {"api_key": "CANARY"}}, start)
if then == "group":
    for name in ("SIGINT", "SIGTERM", "SIGUSR2"):
        os.killpg(0, getattr(signal, name))
if then == "usr2":
    os.kill(helper(), signal.SIGUSR2)
if then == "term":
    os.kill(helper(), signal.SIGTERM)
    time.sleep(0.5)
for step in range(start + 10, stop + 1, 10):
    for logger in loggers:
        logger.log(step, {"epoch": step / 100, "train/loss": 1 / step, "val/top1": float("nan")})
if then == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
for logger in loggers:
    logger.finish({"best": {"metric": "val/top1", "value": 0.5, "step": 50}, "steps": stop})
print("done")
"""


def attempt(folder: Path, start: int, stop: int, then: str = "finish", **more) -> subprocess.CompletedProcess:
    environment = os.environ | {"HOME": str(folder.parent), "PYTHONPATH": SOURCE} | more.pop("environment", {})
    command = [sys.executable, "-c", RUN, str(folder), str(start), str(stop), then, *more.pop("argv", [])]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, start_new_session=True, **more
    )


def read_back(file: Path, *options: str) -> str:
    """What wandb's own reader makes of a file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def history(folder: Path) -> list[dict]:
    """The rows of all attempts in order, as wandb reads them."""
    found = [json.loads(line) for file in files(folder) for line in read_back(file).splitlines()]
    return [record["history"]["item"] for record in found if record["type"] == "history"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wandb") / "run"
    done = attempt(folder, 0, 100)
    assert done.stdout == "done\n"
    assert f"to send it, type: wandb sync {folder}/wandb/offline-run-*" in done.stderr
    return folder


def test_wandb_reads_the_rows_config_and_summary_back(finished):
    rows = history(finished)
    assert [row["_step"] for row in rows] == list(range(10, 101, 10))
    assert [row["train/loss"] for row in rows] == [1 / step for step in range(10, 101, 10)]
    assert rows[0]["val/top1"] == "NaN"
    whole = json.loads(read_back(files(finished)[0], "--summary"))
    assert whole["config"]["model"] == {"name": "tiny"}
    assert (whole["project"], whole["name"], whole["tags"], whole["state"]) == ("laws", "run", ["a"], "finished")
    assert whole["summary"]["best"] == {"metric": "val/top1", "value": 0.5, "step": 50}


def test_after_kills_it_is_one_run_with_each_row_once(tmp_path):
    folder = tmp_path / "run"
    attempt(folder, 0, 100, "kill")
    attempt(folder, 40, 120)
    attempt(folder, 100, 150, "kill")
    attempt(folder, 140, 200)
    assert [row["_step"] for row in history(folder)] == list(range(10, 201, 10))
    assert {file.stem for file in files(folder)} == {f"run-{json.loads((folder / 'wandb/id.json').read_text())['id']}"}


def test_training_goes_on_when_wandb_ends_and_the_next_attempt_sends_all_rows(tmp_path):
    folder = tmp_path / "run"
    result = attempt(folder, 0, 100, "term")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert "wandb has ended" in result.stderr
    assert (folder / "metrics.jsonl").read_text().count("\n") == 10
    assert attempt(folder, 100, 120).returncode == 0
    assert [row["train/loss"] for row in history(folder)] == [1 / step for step in range(10, 121, 10)]


@pytest.mark.parametrize("then", ["group", "usr2"])
def test_signals_that_end_or_stop_a_run_do_not_end_wandb(then, tmp_path):
    result = attempt(tmp_path / "run", 0, 50, then)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert [row["_step"] for row in history(tmp_path / "run")] == [10, 20, 30, 40, 50]


def test_training_goes_on_when_wandb_ends(tmp_path):
    result = attempt(tmp_path / "run", 0, 50, "term")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert "wandb has ended" in result.stderr
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == 5


def leaks(tmp_path: Path, *argv: str) -> set[str]:
    """The canaries found in what a run writes that has them in key, git remote, arguments and config."""
    repository = tmp_path / "code"
    repository.mkdir()
    canaries = ["c0ffee" * 7, "argvcanary42", "remotecanary42", "CANARY"]
    for command in (["init", "-q"], ["remote", "add", "origin", f"https://me:{canaries[2]}@example.org/a.git"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    secret = {"WANDB_API_KEY": canaries[0], "WANDB_MODE": "offline"}
    result = attempt(tmp_path / "run", 0, 50, environment=secret, argv=[f"x={canaries[1]}", *argv], cwd=repository)
    assert result.stdout == "done\n"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    return {canary for path in written for canary in canaries if canary.encode() in path.read_bytes()}


def test_no_secret_reaches_any_file(tmp_path):
    assert leaks(tmp_path) == set()


def test_what_wandb_collects_by_itself_would_leak_and_be_noticed(tmp_path):
    assert "argvcanary42" in leaks(tmp_path, "leaky")


def test_a_file_cut_anywhere_has_its_whole_rows(finished, tmp_path):
    content = files(finished)[0].read_bytes()
    cut_file = tmp_path / "run-cut.wandb"
    steps = []
    for cut in [*range(0, len(content), 7), len(content)]:  # a row is longer than 7 bytes
        cut_file.write_bytes(content[:cut])
        steps.append(newest_step(cut_file))
    assert steps == sorted(steps)
    assert sorted(set(steps)) == [-1, *range(10, 101, 10)]
    assert steps[-1] == history(finished)[-1]["_step"]


def test_records_longer_than_a_block_are_put_together():
    """Written by the format's own rules: chunks that never cross a block of 32 KiB."""
    draw = random.Random(0)
    sent = [draw.randbytes(size) for size in (5, 40_000, 0, 32_747, 100_000, 1)]
    content = b":W&B" + b"\xe1\xbe\x00"
    for data in sent:
        left, first = data, True
        while left or first:
            room = 32768 - len(content) % 32768
            if room < 7:
                content += bytes(room)
                continue
            part, left = left[: room - 7], left[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not left]
            content += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            first = False
    assert list(records(content)) == sent


@pytest.mark.parametrize(
    ("variables", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "", "online"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "", "offline"),
        ({}, "machine api.wandb.ai login user password k", "online"),
        ({}, "machine example.org login user password k", "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org login user password k", "online"),
    ],
)
def test_it_is_offline_where_there_is_no_key(variables, netrc, mode, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    for name, value in ({"NETRC": str(tmp_path / "netrc")} | variables).items():
        monkeypatch.setenv(name, value)
    assert subject._mode() == mode
