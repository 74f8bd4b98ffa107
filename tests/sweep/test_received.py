"""A sweep that somebody else made, and what every command does with it: nothing but reading what is in it."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from plainloop.commands.train import register_launchers
from plainloop.config.compose.composer import Composer
from plainloop.errors import BadConfig
from plainloop.sweep.check import Sweep, check_sweep
from plainloop.sweep.numbering import assign_numbers
from plainloop.sweep.retry import launcher_words
from plainloop.system import lock
from tests.harness.children import Child
from tests.harness.configs import ROOT
from tests.harness.saved import Payload
from tests.harness.sweeps import TINY, run, status

ON_DISK, IN_ENVIRONMENT = "a letter to nobody", "what only the shell knows"
SWEEP = "scripts/sweep.py"


class Canaries:
    """A folder outside of the sweep, a variable of the environment and a process, which no command may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outside"
        (self.folder / "checkpoints").mkdir(parents=True)
        (self.folder / "letter.txt").write_text(ON_DISK)
        (self.folder / "checkpoints/step_00000001.pt").write_text(ON_DISK)
        (self.folder / "status.json").write_text(json.dumps(status("FAILED", reason="data", message=ON_DISK)))
        self.process = Child(lambda: time.sleep(120))
        self._before = self._look()

    def _look(self) -> dict[str, Any]:
        paths = [self.folder, *self.folder.rglob("*")]
        return {str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_text()) for path in paths}

    def harm(self, sweep: Path, said: str = "") -> set[str]:
        """What happened to them: "written" (or run, which writes), "read", "ended"."""
        files = [path for path in sweep.rglob("*") if path.is_file() and not path.is_symlink()]
        inside = {path: path.read_bytes().decode(errors="replace") for path in files}
        texts = [said, *(text for path, text in inside.items() if sweep in path.resolve().parents)]
        found = {"written"} if self._look() != self._before else set()
        found |= {"read"} if any(secret in text for text in texts for secret in (ON_DISK, IN_ENVIRONMENT)) else set()
        time.sleep(0.1)  # a signal takes a moment
        return found | ({"ended"} if self.process.has_ended() else set())

    @property
    def as_file(self) -> dict[str, Any]:
        """All that a file can truly say of the process."""
        return lock.this_process() | {"pid": self.process.pid, "pid_start": lock._start(self.process.pid)}


@pytest.fixture
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canaries]:
    monkeypatch.setenv("ONLY_HERE", IN_ENVIRONMENT)
    made = Canaries(tmp_path)
    yield made
    made.process.kill(signal.SIGKILL)
    made.process.wait()


def composer_with_launchers() -> Composer:
    register_launchers(ROOT / "conf")
    return Composer(ROOT / "conf")


@pytest.fixture(scope="module")
def checked() -> Sweep:
    return check_sweep(composer_with_launchers(), [*TINY, "seed=range(0,8)", "hydra.sweep.dir=/nowhere"])


@pytest.fixture
def sweep(checked: Sweep, tmp_path: Path) -> Path:
    """As a colleague would leave it: eight jobs that failed before their first step."""
    folder = tmp_path / "received"
    folder.mkdir()
    for job in assign_numbers(folder, [job.moved_to(folder) for job in checked.jobs]):
        (job.folder / "status.json").write_text(json.dumps(status("FAILED", reason="data")))
    (folder / "multirun.yaml").write_text(OmegaConf.to_yaml(checked.master))
    return folder


def change_yaml(path: Path, change: Callable[[Any], Any]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))  # without aliases, which no run writes


def with_hydra_of_its_own(sweep: Path, canaries: Canaries) -> None:
    """multirun.yaml that runs, writes and leads out, by way of everything that Hydra would believe."""
    touch = {"_target_": "subprocess.check_output", "args": ["touch", str(canaries.folder / "run")]}

    def change(master: Any) -> None:
        hydra, letter = master["hydra"], str(canaries.folder / "letter.txt")
        master["plugins"] = ["subprocess"]
        hydra["callbacks"] = {"evil": touch}
        handlers = {"file": {"class": "logging.FileHandler", "filename": letter, "mode": "w"}}
        for key in ("job_logging", "hydra_logging"):
            hydra[key] = {"version": 1, "handlers": handlers, "root": {"handlers": ["file"]}}
        hydra["job"] |= {"name": "../../outside/name", "env_set": {"OMP_NUM_THREADS": "no number"}}
        hydra["output_subdir"] = "../../outside/sub"
        hydra["sweep"] |= {"dir": str(canaries.folder), "subdir": "../outside"}
        hydra["launcher"]["evil"] = touch

    change_yaml(sweep / "multirun.yaml", change)


def with_every_trick(sweep: Path, canaries: Canaries) -> None:
    """Each job has a trick of its own; and all files of the sweep itself."""
    with_hydra_of_its_own(sweep, canaries)
    touch = ["touch", str(canaries.folder / "run")]
    evil = {"plugins": ["subprocess"], "model": {"_target_": "subprocess.check_output", "args": touch}}
    change_yaml(sweep / "0/config.yaml", lambda config: config.update(evil))
    change_yaml(sweep / "1/config.yaml", lambda config: config.update(name="${oc.env:ONLY_HERE}"))
    group = canaries.as_file | {"pid": -canaries.process.pid}
    (sweep / "2/status.json").write_text(json.dumps(status("RUNNING") | group))
    (sweep / "3/status.json").write_text(json.dumps(status("RUNNING") | canaries.as_file))
    (sweep / "run.lock").write_text(json.dumps(canaries.as_file | {"since": 0.0}))
    (sweep / "3/run.lock").touch()
    for path in (sweep / "4").iterdir():
        path.unlink()
    (sweep / "4").rmdir()
    (sweep / "4").symlink_to(canaries.folder)
    for name in ("train.log", "attempts.jsonl", "run.lock", "metrics.jsonl", "last.safetensors"):
        (sweep / "5" / name).symlink_to(canaries.folder / "letter.txt")
    (sweep / "5/checkpoints").symlink_to(canaries.folder / "checkpoints")
    (sweep / "6/status.json").unlink()
    os.mkfifo(sweep / "6/status.json")
    (sweep / "7/status.json").write_text(json.dumps(status("FAILED") | {"state": ["\x1b]0;title\x07"]}))
    (sweep / ".submitit").mkdir()
    evil_pickle = pickle.dumps(Payload(canaries.folder / "unpickled"))
    for name in ("7_submitted.pkl", f"{canaries.process.pid}_submitted.pkl", "7_0_result.pkl"):
        (sweep / ".submitit" / name).write_bytes(evil_pickle)
    (sweep / ".submitit/submission_file_0.sh").touch()
    row = {"number": 0, "job": "7", "log": str(canaries.folder / "letter.txt"), "submitted": 0.0}
    (sweep / "slurm.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"number": 1, "job": "--me"}) + "\n")


def no_submission(sweep: Path) -> None:
    """As a sweep that never was in Slurm's queue, so that no command asks for Slurm."""
    (sweep / "slurm.jsonl").unlink()
    (sweep / ".submitit/submission_file_0.sh").unlink()


SAME = ("-m", *TINY, "seed=range(0,8)")
REPLAY = "scripts/replay_step.py"
REFUSED: tuple[tuple[tuple[str, ...], str, int, str], ...] = (
    (("retry", "received"), SWEEP, 64, "config.yaml cannot be used: it holds ${oc.env:ONLY_HERE}"),
    (("retry", "received", "0"), SWEEP, 64, "'subprocess.check_output' is outside the allowlist"),
    (("retry", "received", "4"), SWEEP, 64, "leads out of the sweep's folder"),
    (("retry", "received", "0", "plugins=[subprocess]"), SWEEP, 64, "names no package of yours"),
    (("cancel", "received"), SWEEP, 0, "nothing to cancel: no process runs this sweep, and no job runs"),
    ((*SAME, "hydra.sweep.dir=received"), "train.py", 73, "in it is a link that leads out of it, to "),
    (("resume=received/0",), "train.py", 64, "outside the allowlist"),
    (("resume=received/1",), "train.py", 64, "config.yaml cannot be used: it holds ${oc.env:ONLY_HERE}"),
    (("resume=received/4",), "train.py", 64, "has no config.yaml"),
    (("resume=received/5",), "train.py", 65, "attempts.jsonl was not written by a run"),
    (("resume=received/6",), "train.py", 65, "status.json was not written by a run"),
    (("received/0", "3"), REPLAY, 64, "outside the allowlist"),
    (("received/1", "3"), REPLAY, 64, "it holds ${oc.env:ONLY_HERE}"),
    (("received/0", "3", "--plugins", "subprocess"), REPLAY, 64, "no package of"),
    ((*TINY, "init_from=received/5"), "train.py", 64, "init_from"),
)


def test_a_received_sweep_is_refused_with_one_message_and_nothing_happens(sweep: Path, canaries: Canaries) -> None:
    with_every_trick(sweep, canaries)
    no_submission(sweep)
    for typed, script, expected, message in REFUSED:
        code, said = run(sweep.parent, *typed, script=script)
        assert (code, "Traceback" in said) == (expected, False), said
        assert message in said and "\x1b" not in said, (typed, said)
        assert canaries.harm(sweep, said) == set(), typed


def test_each_row_of_a_received_sweep_says_what_is_wrong_with_its_job(sweep: Path, canaries: Canaries) -> None:
    with_every_trick(sweep, canaries)
    no_submission(sweep)
    for verb in (("status",), ("status", "--json"), ("collect",), ("collect", "--format", "csv"), ("logs",)):
        code, said = run(sweep.parent, verb[0], "received", *verb[1:], script=SWEEP)
        assert code == 0 and "\x1b" not in said, said
        assert canaries.harm(sweep, said) == set()
    rows = {row["job"]: row for row in json.loads((sweep / "results.json").read_text())}
    whys = [rows[number]["why"].removeprefix("unreadable: ") for number in range(8)]
    assert whys[:4] == ["data", "data", "killed", "killed"] and whys[4].startswith("its folder leads out of the sweep")
    assert "in it is a link that leads out of it, to" in whys[5]
    assert "status.json in it is neither a file nor a folder" in whys[6]
    assert "7/status.json was not written by a run: state is [" in whys[7]


def test_a_received_multirun_yaml_gives_a_retry_its_launcher_and_nothing_else(sweep: Path, canaries: Canaries) -> None:
    with_hydra_of_its_own(sweep, canaries)
    code, said = run(sweep.parent, "retry", "received", "2", script=SWEEP)
    assert code == 0 and "step 12/12" in (sweep / "2/train.log").read_text(), said
    assert canaries.harm(sweep, said) == set()
    assert json.loads((sweep / "2/status.json").read_text())["state"] == "DONE"
    assert "evil" not in (sweep / "2/.hydra/hydra.yaml").read_text()


SLURM = {"_target_": "hydra_plugins.plainloop_launchers.submitit_slurm.SlurmLauncher", "partition": "gpu", "nodes": 2}


MUST_BE_TYPED: dict[str, Any] = {
    "setup": ["touch run", "echo 'x'"],
    "python": "./python",
    "additional_parameters": {"output": "/tmp/x"},
    "submitit_folder": "/tmp/x",
    "comment": "${oc.env:ONLY_HERE}",
}


def test_what_runs_commands_or_chooses_folders_must_be_typed(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = SLURM | MUST_BE_TYPED | {"new": 1}
    change_yaml(sweep / "multirun.yaml", lambda master: master["hydra"].update(launcher=launcher))
    monkeypatch.setattr("sys.argv", [str(ROOT / SWEEP)])
    composer = composer_with_launchers()
    with pytest.raises(BadConfig, match=r"multirun.yaml has values that run commands or name places: ") as error:
        launcher_words(sweep, composer, [])
    typed = [word for word in shlex.split(error.value.hint) if "hydra.launcher." in word]
    words = launcher_words(sweep, composer, typed)
    assert sorted(words) == ["hydra.launcher.nodes=2", "hydra.launcher.partition=gpu", "hydra/launcher=submitit_slurm"]
    composed = composer.compose_or_explain([*words, *typed])
    assert composed.config is not None and not composed.problems
    given: Any = OmegaConf.to_container(composed.config.hydra.launcher)
    assert {key: given[key] for key in MUST_BE_TYPED} == MUST_BE_TYPED
    assert launcher_words(sweep, composer, ["hydra/launcher=local"]) == []


def test_cancel_unpickles_nothing(sweep: Path, canaries: Canaries, monkeypatch: pytest.MonkeyPatch) -> None:
    with_every_trick(sweep, canaries)
    monkeypatch.setenv("PATH", str(sweep.parent))  # without Slurm
    code, said = run(sweep.parent, "cancel", "received", script=SWEEP)
    assert code == 70 and "squeue is not here: this machine has no Slurm commands" in said
    assert canaries.harm(sweep, said) == set()
    code, said = run(sweep.parent, "status", "received", script=SWEEP)
    assert code == 0 and "6 FAILED, 2 LOST" in said, said


BROKEN: dict[str, tuple[str, Any, tuple[str, ...], str, str]] = {
    "a process that only a file names": (
        "plainloop.system.lock._has_open",
        lambda *_: True,
        ("cancel", "received"),
        SWEEP,
        "ended",
    ),
    "a target outside the allowlist": (
        "plainloop.config.targets._inside",
        lambda *_: True,
        ("resume=received/0",),
        "train.py",
        "written",
    ),
    "a variable in a saved config": (
        "plainloop.run_dir.config_file.re",
        SimpleNamespace(search=lambda *_: None),
        ("resume=received/1",),
        "train.py",
        "read",
    ),
    "a log outside of the sweep": (
        "plainloop.sweep.index.stays_inside",
        lambda *_: True,
        ("logs", "received"),
        SWEEP,
        "read",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_code_that_believed_the_folder_would_do_harm(
    sweep: Path, canaries: Canaries, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, broken, typed, script, harm = BROKEN[name]
    with_every_trick(sweep, canaries)
    no_submission(sweep)
    monkeypatch.setattr(place, broken)
    if harm == "read" and script == SWEEP:
        monkeypatch.setattr("plainloop.system.storage.open_file", os.open)
    _, said = run(sweep.parent, *typed, script=script)
    assert canaries.harm(sweep, said) == {harm}, said
