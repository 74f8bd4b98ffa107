"""However a rank ends, the run ends soon, tells which one and why, and leaves nobody behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from plainloop.distributed.failures import RankFailed
from plainloop.run import launch
from plainloop.run_dir.status import read_status
from tests.harness.configs import checked

HANGS = ("stop", "loop")
TIMEOUT_S = {True: 8, False: 120}  # of a run whose rank hangs; of others, which must end long before it
RUN = ("model.width=4", "data.batch_size=120", "trainer.duration=3ep", "device=cpu", "trainer.devices=2")

# A logger or an augmentation of a stranger may do anything; these do it at a chosen place.
MODULE = """
import os, signal, time
from plainloop.distributed import collectives
from plainloop.errors import BadData
from plainloop.models.tiny import TinyNet
from plainloop.tasks.classification import Classification

class Fate:
    def __init__(self, *, how: str, rank: int, at: int, note: str) -> None:
        self.how, self.rank, self.at, self.note = how, rank, at, note
        if at < 0 and collectives.rank() == rank:
            self.strike()

    def __call__(self, batch, step):
        if step == self.at and collectives.rank() == self.rank:
            self.strike()
        return batch

    def strike(self):
        with open(self.note, "w") as note:
            note.write(str(time.time()))
        if self.how == "raise":
            raise RuntimeError("boom")
        if self.how == "data":
            raise BadData("image 7 is torn", hint="fetch it again")
        if self.how == "exit":
            os._exit(3)
        if self.how == "leave":
            os._exit(0)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            pass

class Evaluated(Classification):
    # Meets its fate in an evaluation.

    def __init__(self, *, fate, **settings):
        super().__init__(**settings)
        self.fate = fate

    def predict(self, model, batch):
        if collectives.rank() == self.fate.rank:
            self.fate.strike()
        return super().predict(model, batch)

class Saved(TinyNet):
    # Meets its fate in a save: all ranks take over the buffers of the first then.

    def __init__(self, *, fate, **settings):
        super().__init__(**settings)
        self.fate, self.trained = fate, False

    def forward(self, image):
        self.trained = True
        return super().forward(image)

    def buffers(self, recurse=True):
        if self.trained and collectives.rank() == self.fate.rank:
            self.fate.strike()
        return super().buffers(recurse)
"""


@pytest.fixture
def fated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "fate.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def config(how: str, rank: int, at: int | str) -> dict[str, Any]:
        never = ["trainer.eval_every=never"] if at == "save" else []  # evaluations share buffers too
        timeout = f"trainer.timeout_s={TIMEOUT_S[how in HANGS]}"
        made = checked(*RUN, timeout, "trainer.save_every=4st", *never) | {"plugins": ["fate"]}
        step = at if isinstance(at, int) else 10**6
        node = {"_target_": "fate.Fate", "how": how, "rank": rank, "at": step, "note": str(tmp_path / "when")}
        if at == "evaluate":
            return made | {"task": made["task"] | {"_target_": "fate.Evaluated", "fate": node}}
        if at == "save":
            return made | {"model": made["model"] | {"_target_": "fate.Saved", "fate": node}}
        return made | {"augment": {"fate": node}}

    return config


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


SAYS = {
    "raise": (70, "RuntimeError: boom"),
    "data": (65, "image 7 is torn"),
    "exit": (76, "left with exit code 3"),
    "leave": (76, "left with exit code 0"),
    "kill": (76, "killed by SIGKILL"),
    "stop": (76, f"did not answer the others for {TIMEOUT_S[True]} s"),
    "loop": (76, f"did not answer the others for {TIMEOUT_S[True]} s"),
}
PLACES = (-1, 0, 16, "evaluate", "save")  # before the first step, steps, and what ranks do between steps
ALL = [(how, rank, at) for how in SAYS for rank in (0, 1) for at in PLACES]
SOME = [
    ("data", 1, -1),
    ("kill", 0, 16),
    ("leave", 1, 0),
    ("stop", 0, 16),
    ("exit", 1, "evaluate"),
    ("raise", 0, "save"),
]


def fail(config: dict[str, Any], tmp_path: Path, how: str, rank: int) -> None:
    before, folder = children(), tmp_path / "run"
    with pytest.raises(RankFailed) as failed:
        launch.start(config, folder)
    assert (tmp_path / "when").exists(), failed.value
    took = time.time() - float((tmp_path / "when").read_text())
    code, words = SAYS[how]
    message = str(failed.value)
    assert failed.value.code == code
    assert message.startswith(f"rank {rank} failed: ")
    assert words in message.splitlines()[0]
    assert ("Traceback" in message) == (how == "raise")
    assert ('fate.py", line' in message) == (how in ("raise", "stop", "loop"))
    status = read_status(folder)
    assert (status.state, status.exit_code) == ("FAILED", code)
    assert f"rank {rank}" in status.message or (rank == 0 and how in ("raise", "data"))  # its own words
    assert words in status.message
    assert took < 120, "it was a timeout that ended the run"
    assert children() == before


@pytest.mark.parametrize(("how", "rank", "at"), SOME)
def test_a_rank_that_fails_ends_the_run(tmp_path: Path, fated: Any, how: str, rank: int, at: int | str) -> None:
    fail(fated(how, rank, at), tmp_path, how, rank)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "rank", "at"), [case for case in ALL if case not in SOME])
def test_whatever_rank_fails_whenever_ends_the_run(
    tmp_path: Path, fated: Any, how: str, rank: int, at: int | str
) -> None:
    fail(fated(how, rank, at), tmp_path, how, rank)
