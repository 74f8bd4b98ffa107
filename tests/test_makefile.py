"""`make` on a fresh machine, with interpreters and a pip that only write down what they were asked to do."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "-m pip install --progress-bar off --require-hashes -r requirements.lock"  # without a terminal

# Answers what the Makefile asks of an interpreter. `-m venv DIR` puts a copy of itself there, as venv does.
INTERPRETER = """#!/bin/sh
case "$1 $2" in
    "-c "*) exit {usable} ;;
    "--version "*) echo "Python {name}" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "venv by {name}" >> "{log}" ;;
    *) echo "$*" >> "{log}"; case "$*" in *requirements.lock* | *gpu_ready*) [ ! -e "{log}.offline" ] ;; esac ;;
esac
"""


class FreshMachine:
    """A clone of the files that make reads, and a PATH with the shell's own tools and the interpreters given."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.bin, self.log = folder / "clone", folder / "bin", folder / "log"
        self.clone.mkdir()
        self.bin.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.clone)
        for tool in ("sh", "make", "awk", "mkdir", "cp", "touch"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def has(self, name: str, *, usable: bool = True) -> None:
        script = self.bin / name
        script.write_text(INTERPRETER.format(name=name, usable=0 if usable else 1, log=self.log))
        script.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.clone,
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def asked(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> FreshMachine:
    return FreshMachine(tmp_path)


def test_make_alone_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in printed.splitlines()] == phony


def test_make_train_on_a_fresh_machine_installs_the_lock_and_trains(machine: FreshMachine) -> None:
    machine.has("python3")
    result = machine.make("train", "ARGS=optimizer=sgd seed=1")
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^setup (.*?)[:;]", result.stdout, re.MULTILINE) == ["1/3", "2/3", "3/3", "is done"]
    assert machine.asked() == [
        "venv by python3",
        INSTALL,
        "-m pip install --quiet --no-deps --no-build-isolation -e .",
        "train.py optimizer=sgd seed=1",
    ]


def test_what_is_installed_is_not_installed_again(machine: FreshMachine) -> None:
    machine.has("python3")
    machine.make("setup")
    machine.asked()
    machine.make("train")
    assert machine.asked() == ["train.py"]


def test_another_lock_is_installed(machine: FreshMachine) -> None:
    machine.has("python3")
    machine.make("setup")
    machine.asked()
    later = (machine.clone / ".venv/.installed").stat().st_mtime + 10
    os.utime(machine.clone / "requirements.lock", (later, later))
    machine.make("setup")
    assert INSTALL in machine.asked()


def test_an_installation_that_failed_is_tried_again(machine: FreshMachine) -> None:
    machine.has("python3")
    offline = machine.log.with_name("log.offline")
    offline.touch()
    assert machine.make("train").returncode != 0
    assert "train.py" not in machine.asked()
    offline.unlink()
    assert machine.make("train").returncode == 0
    assert machine.asked()[-1] == "train.py"


def test_an_interpreter_that_is_too_old_is_passed_over(machine: FreshMachine) -> None:
    machine.has("python3", usable=False)
    machine.has("python3.12")
    machine.make("setup")
    assert machine.asked()[0] == "venv by python3.12"


def test_a_named_interpreter_is_the_one_that_is_used(machine: FreshMachine) -> None:
    machine.has("python3")
    machine.has("mine")
    machine.make("setup", "PYTHON=mine")
    assert machine.asked()[0] == "venv by mine"


def test_without_a_fit_interpreter_the_message_says_how_to_get_one(machine: FreshMachine) -> None:
    machine.has("python3", usable=False)
    result = machine.make("train")
    assert result.returncode != 0
    assert "no Python 3.11 or newer" in result.stderr
    assert "make setup PYTHON=" in result.stderr
    assert machine.asked() == []


def test_a_named_interpreter_that_is_too_old_is_refused(machine: FreshMachine) -> None:
    machine.has("python3")
    machine.has("old", usable=False)
    result = machine.make("setup", "PYTHON=old")
    assert result.returncode != 0
    assert "PYTHON=old is no Python 3.11" in result.stderr


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("test-gpu", "-m pytest -n 4 -m gpu tests/gpu -x"),
        ("bench-gpu", "benchmarks/gpu.py --device cuda -x"),
        ("recipe-gpu", "benchmarks/gpu_recipes.py --device cuda -x"),
    ],
)
def test_gpu_targets_take_the_named_interpreter_as_it_is(target: str, runs: str, machine: FreshMachine) -> None:
    machine.has("mine")
    result = machine.make(target, "PYTHON=mine", "ARGS=-x")
    assert result.returncode == 0, result.stderr
    assert machine.asked() == ["benchmarks/gpu_ready.py --device cuda", runs]
    assert not (machine.clone / ".venv").exists()


def test_a_gpu_target_runs_nothing_where_the_interpreter_is_not_ready(machine: FreshMachine) -> None:
    machine.has("mine")
    machine.log.with_name("log.offline").touch()
    assert machine.make("test-gpu", "PYTHON=mine").returncode != 0
    assert machine.asked() == ["benchmarks/gpu_ready.py --device cuda"]


def test_gpu_targets_without_a_named_interpreter_take_the_venv(machine: FreshMachine) -> None:
    machine.has("python3")
    machine.make("test-gpu", "DEVICE=cpu")
    assert machine.asked()[-2:] == ["benchmarks/gpu_ready.py --device cpu", "-m pytest -n 2 tests/gpu"]


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"\n(?=\w)", lock)
    assert len(packages) > 50
    assert all(re.match(r"[a-z0-9.-]+==\S+ .*\n    --hash=sha256:[0-9a-f]{64}", package) for package in packages)
    assert "://" not in lock
    assert "--" not in lock.replace("--hash=sha256:", "")


def test_ci_runs_the_commands_that_the_readme_gives() -> None:
    script, readme = (ROOT / ".ci/run").read_text(), (ROOT / "README.md").read_text()
    commands = re.findall(r"^make .*$", script, re.MULTILINE)
    assert "make test" in commands
    assert all(re.search(rf"^{command}\b", readme, re.MULTILINE) for command in commands)
