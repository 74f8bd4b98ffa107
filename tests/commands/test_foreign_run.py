"""`python train.py` with a run directory that somebody else has made: one message, at once, and nothing outside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.runs import SMALL, files, start, train

SECRET = "canary-of-the-environment"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = train(folder, *SMALL, "hydra.run.dir=run")
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, in a folder beside which a canary lies."""
    (tmp_path / "canary").write_text("canary")
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda run: os.truncate(run / name, size)


def added(name: str, text: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).open("ab").write(text) and None


def replaced(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def linked(name: str, to: str) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(to)

    return act


def renamed(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("\nname: train\n", "\nname: ${oc.env:SECRET}\n"))


BOMB = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60))
AGAIN = ("resume=run", "trainer.duration=12st")  # something is left to do
CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], int, str]] = {
    "a torn config": (cut("config.yaml", 900), ("resume=run",), 64, "config.yaml cannot be used: it is not whole"),
    "a torn config of a finished run": (
        cut("config.yaml", 900),
        (*SMALL, "hydra.run.dir=run"),
        64,
        "config.yaml cannot be used: it is not whole",
    ),
    "a config of bytes": (replaced("config.yaml", bytes(range(256)) * 50), ("resume=run",), 64, "it is no text"),
    "a config of aliases": (added("config.yaml", BOMB), ("resume=run",), 64, "*a0 is an alias"),
    "a deep config": (replaced("config.yaml", b"[" * 100_000), ("resume=run",), 64, "more than any run writes"),
    "a config with code": (
        added("config.yaml", b"x: !!python/object/apply:os.system ['touch canary2']\n"),
        ("resume=run",),
        64,
        "could not determine a constructor",
    ),
    "a config that asks for a variable": (renamed, ("resume=run",), 64, "name holds ${...}"),
    "a config of somebody": (linked("config.yaml", "../canary"), ("resume=run",), 65, "it is a symbolic link"),
    "a torn summary": (
        cut("summary.json", 60),
        ("resume=run",),
        0,
        "done: run is finished; run/summary.json is missing",
    ),
    "a summary of lists": (replaced("summary.json", b'{"best": []}'), ("resume=run",), 65, "best is a list"),
    "a status of lists": (replaced("status.json", b'{"state": []}'), ("resume=run",), 65, "state is a list"),
    "a log elsewhere": (linked("train.log", "../canary"), AGAIN, 73, "train.log in it is a link that leads out"),
    "a log to come": (linked("train.log", "../canary2"), AGAIN, 73, "train.log in it is a link that leads out"),
    "checkpoints elsewhere": (linked("checkpoints", "../other"), AGAIN, 73, "checkpoints in it is a link"),
    "attempts elsewhere": (
        linked("attempts.jsonl", "status.json"),
        AGAIN,
        65,
        "attempts.jsonl was not written by a run",
    ),
    "a lock elsewhere": (linked("run.lock", "status.json"), AGAIN, 73, "run.lock: it is a symbolic link"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_and_nothing_outside_is_touched(case: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act, typed, code, message = CASES[case]
    monkeypatch.setenv("SECRET", SECRET)
    shutil.copytree(run, run.parent / "other")
    act(run)
    ended = start(run.parent, *typed).wait(10)  # kills what takes longer: each takes less than a second
    assert (ended.code, "Traceback" in ended.err) == (code, False), ended.err
    assert message in ended.err + ended.out
    assert len(ended.err.splitlines()) <= 2
    assert (run.parent / "canary").read_text() == "canary" and not (run.parent / "canary2").exists()
    assert files(run.parent / "other").keys() >= {"checkpoints/step_00000010.pt", "checkpoints/step_00000008.pt"}
    everything = [*files(run.parent).values(), ended.out.encode(), ended.err.encode()]
    assert not any(SECRET.encode() in content for content in everything)


def test_without_a_hostile_file_the_run_goes_on(run: Path) -> None:
    ended = train(run.parent, *AGAIN)
    assert ended.code == 0, ended.err
    assert "12/12" in ended.out
