"""Ask a run to stop at any moment: it stops after the step that it is in, durably, and goes on to the same bits."""

from __future__ import annotations

import ast
import inspect
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainloop.contracts import Batch
from plainloop.run_dir.recorder import Recorder
from plainloop.run_dir.status import read_status
from plainloop.system.signals import SIGNALS, Preemption
from tests.harness import inject
from tests.harness.children import children_of, runs, wait_for
from tests.harness.configs import ROOT
from tests.harness.pictures import command, write_pictures, written
from tests.harness.runs import SMALL, TASKS, by_task, differences, remains, start, status, train

RUN = (*SMALL, "hydra.run.dir=run")


def stop_at_random(folder: Path, draw: random.Random, expected: dict[str, Any], command: tuple[str, ...] = RUN) -> int:
    """Sends signals at random moments until the run is done; how many reached it in its loop."""
    begun, hits = mmap.mmap(-1, 8), 0

    def prepare() -> None:
        def mark(step: int, batch: Batch) -> None:
            time.sleep(0.05)
            begun[:8] = struct.pack("q", step + 1)

        inject.before_updates(mark)

    while True:
        begun[:8] = struct.pack("q", 0)
        run = start(folder, *command, prepare=prepare)
        run.until(lambda: struct.unpack("q", begun[:8])[0])
        time.sleep(draw.uniform(0, 0.25))
        in_step = struct.unpack("q", begun[:8])[0]
        run.kill(draw.choice(SIGNALS))
        ended = run.wait()
        if ended.code == 0:
            break
        told = status(folder / "run")
        assert (ended.code, told["state"], told["reason"]) == (75, "PREEMPTED", "preempted"), ended.err
        # The signal came during `in_step` or, between the reading and the sending, the one after it.
        assert told["step"] <= in_step + 1
        assert told["checkpoint"] == f"step_{told['step']:08}.pt"
        assert ended.last_line == "python train.py resume=run"
        hits += 1
    assert differences(expected, remains(folder / "run")) == []
    return hits


@by_task
def test_random_signals_stop_within_a_step_and_change_nothing(
    task: str, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    expected = undisturbed(*TASKS[task])
    assert stop_at_random(tmp_path, random.Random(3), expected, (*RUN, *TASKS[task])) >= 2


# torch imports numpy from C, and what is raised there goes no further.
INTERRUPTED_IN_NUMPY = """
import os, runpy, signal, sys

class InterruptsOnce:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.linalg":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, InterruptsOnce())
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def test_an_interrupt_while_torch_is_imported_ends_the_run() -> None:
    words = [sys.executable, "-c", INTERRUPTED_IN_NUMPY, "data=digits", "check=true"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.kill
def test_100_signals(tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]) -> None:
    draw, hits, run = random.Random(4), 0, 0
    while hits < 100:
        (tmp_path / str(run)).mkdir()
        hits += stop_at_random(tmp_path / str(run), draw, undisturbed())
        run += 1


TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL
MOMENTS = {
    "in a save of rank 0": (inject.during("save", inject.send(TERM), kind=Recorder), {75}),
    "in an evaluation": (inject.during("evaluate", inject.send(TERM)), {75}),
    "before the first step": (inject.during("fit", inject.send(TERM)), {75}),
    "before there is a handler": (inject.send(TERM), {-15}),
    "after the last step": (inject.during("summarize", inject.send(TERM), kind=Recorder), {0}),
    "two of a kind": (inject.at_step(4, inject.send(signal.SIGUSR2, TERM)), {75}),
    "interrupted, then killed": (inject.at_step(4, inject.send(INT, KILL)), {-9}),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_leaves_a_run_that_goes_on(
    moment: str, tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    prepare, codes = MOMENTS[moment]
    ended = train(tmp_path, *RUN, prepare=prepare)
    assert ended.code in codes, ended.err
    assert "Traceback" not in ended.err
    assert train(tmp_path, *RUN).code == 0
    assert differences(undisturbed(), remains(tmp_path / "run")) == []


def test_a_handler_only_sets_a_flag() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(Preemption._on_signal)))
    assert called(tree) == set()
    assert {
        ast.unparse(target) for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets
    } == {"self.requested"}


def test_a_handler_that_does_more_is_caught() -> None:
    assert "log.info" in called(ast.parse("def handler(number, frame):\n    log.info('stopping')"))


def called(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@by_task
def test_a_signal_to_the_whole_group_is_the_trainers_alone(task: str, tmp_path: Path) -> None:
    pictures = written(tmp_path / "pictures", task)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    assert train(tmp_path / "one", *pictures, "data.num_workers=0").code == 0
    ended = train(
        tmp_path / "other", *pictures, "data.num_workers=2", prepare=inject.at_step(6, inject.send(TERM, group=True))
    )
    assert (ended.code, read_status(tmp_path / "other" / "run").step) == (75, 6), ended.err
    assert "Traceback" not in ended.out + ended.err
    assert train(tmp_path / "other", *pictures, "data.num_workers=2").code == 0
    assert differences(remains(tmp_path / "one" / "run"), remains(tmp_path / "other" / "run")) == []


def test_workers_do_not_outlive_their_trainer(tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = start(
        tmp_path,
        *command(write_pictures(tmp_path / "pictures")),
        "data.num_workers=2",
        prepare=inject.at_step(5, inject.wait_for(go)),
    )
    assert run.until(go.with_suffix(".here").exists)
    workers = list(children_of(run.pid))
    assert len(workers) >= 2
    run.kill(KILL)
    run.wait()
    wait_for(lambda: not any(map(runs, workers)))


def test_the_last_line_of_a_stopped_run_continues_it(
    tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    """Typed into a shell as it stands; here with nothing forked."""
    shell = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = tmp_path / "a run with spaces"
    words = [*SMALL, f"hydra.run.dir='{run}'"]
    begun = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, "trainer.duration=10st"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while begun.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.002)
    begun.send_signal(signal.SIGTERM)
    last = begun.communicate(timeout=120)[1].splitlines()[-1]
    assert begun.returncode == 75
    python = shutil.which("python", path=shell["PATH"])
    assert python and last.startswith("python ")
    ended = subprocess.run(last, shell=True, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert differences(undisturbed(), remains(run)) == []
