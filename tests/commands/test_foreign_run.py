"""`python train.py` with a run directory that somebody else has made: one message, at once, and nothing outside."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plainloop.errors import BadConfig, BadData, RunError
from plainloop.run_dir.config_file import read_config
from tests.harness.runs import SMALL, files, train

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


def torn(run: Path) -> None:
    """The first lines of the config alone, as a write that was cut off between two of its blocks would leave them."""
    path = run / "config.yaml"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:25]))


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


def asking(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("\nname: train\n", "\nname: ${oc.env:SECRET}\n"))


BOMB = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60))
CODE = b"x: !!python/object/apply:os.system ['touch canary2']\n"
CONFIGS: dict[str, tuple[Callable[[Path], None], type[RunError], str]] = {
    "torn": (torn, BadConfig, "config.yaml cannot be used: it is not whole"),
    "bytes": (replaced("config.yaml", bytes(range(256)) * 50), BadConfig, "it is no text"),
    "aliases": (added("config.yaml", BOMB), BadConfig, r"\*a0 is an alias"),
    "deep": (replaced("config.yaml", b"[" * 100_000), BadConfig, "more than any run writes"),
    "code": (added("config.yaml", CODE), BadConfig, "could not determine a constructor"),
    "a date": (added("config.yaml", b"x: 2026-01-31\n"), BadConfig, "type date is not JSON"),
    "a variable": (asking, BadConfig, r"it holds \${oc.env:SECRET}, and a run saves values only"),
    "a null key": (added("config.yaml", b"null: 1\n"), BadConfig, "it has a key null, and the keys that a run"),
    "a null key inside": (added("config.yaml", b"x: {y: [{null: 1}]}\n"), BadConfig, r"x\.y\.0 has a key null"),
    "a link": (linked("config.yaml", "../canary"), BadData, "it is a symbolic link"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_no_run_has_saved_has_one_message_at_once(name: str, run: Path) -> None:
    act, kind, message = CONFIGS[name]
    read_config(run)
    act(run)
    begun = time.process_time()
    with pytest.raises(kind, match=message):
        read_config(run)
    assert time.process_time() - begun < 1
    assert not (run.parent / "canary2").exists()


AGAIN = ("resume=run", "trainer.duration=12st")  # something is left to do
CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], int, str]] = {
    "a torn config": (torn, (*SMALL, "hydra.run.dir=run"), 64, "it is not whole"),
    "a config that asks for a variable": (asking, ("resume=run",), 64, "it holds ${oc.env:SECRET}"),
    "a torn summary": (cut("summary.json", 60), ("resume=run",), 0, "is finished; run/summary.json is missing"),
    "a summary of lists": (replaced("summary.json", b'{"best": []}'), ("resume=run",), 65, "best is []"),
    "a log elsewhere": (linked("train.log", "../canary"), AGAIN, 73, "train.log in it is a link that leads out"),
    "checkpoints elsewhere": (linked("checkpoints", "../other"), AGAIN, 73, "checkpoints in it is a link"),
    "attempts elsewhere": (linked("attempts.jsonl", "status.json"), AGAIN, 65, "attempts.jsonl was not written by"),
    "a lock elsewhere": (linked("run.lock", "status.json"), AGAIN, 65, "run.lock was not written by a run"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_and_nothing_outside_is_touched(case: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act, typed, code, message = CASES[case]
    monkeypatch.setenv("SECRET", SECRET)
    shutil.copytree(run, run.parent / "other")
    act(run)
    ended = train(run.parent, *typed)
    assert (ended.code, "Traceback" in ended.err) == (code, False), ended.err
    assert message in ended.err + ended.out
    assert len(ended.err.splitlines()) <= 2
    assert (run.parent / "canary").read_text() == "canary"
    assert files(run.parent / "other").keys() >= {"checkpoints/step_00000010.pt", "checkpoints/step_00000008.pt"}
    everything = [*files(run.parent).values(), ended.out.encode(), ended.err.encode()]
    assert not any(SECRET.encode() in content for content in everything)


def test_without_a_hostile_file_the_run_goes_on(run: Path) -> None:
    ended = train(run.parent, *AGAIN)
    assert ended.code == 0, ended.err
    assert "12/12" in ended.out
