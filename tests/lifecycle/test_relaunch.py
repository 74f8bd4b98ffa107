"""The same command again: after kills while a run starts, with other workers, with other threads."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainloop.loop.trainer import Trainer
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness import inject
from tests.harness.pictures import command, write_pictures
from tests.harness.runs import SMALL, differences, files, lines, remains, start, train

RUN = (*SMALL, "hydra.run.dir=run")


def kill_while_starting(folder: Path, kills: int, expected: dict[str, Any], draw: random.Random) -> None:
    """Kills the run again and again while it starts, then lets it finish."""
    assert train(folder, *RUN, prepare=inject.at_step(5, inject.send(signal.SIGTERM))).code == 75
    newest = 0
    for _ in range(kills):
        run = start(folder, *RUN)
        until = time.monotonic() + draw.uniform(0, 1.2)
        run.until(lambda until=until: time.monotonic() > until)
        run.kill(draw.choice((signal.SIGKILL, signal.SIGTERM)))
        assert run.wait().code in (-9, -15, 75, 72, 0)
        left = files(folder / "run")
        step = max(
            int(name.split("_")[-1].split(".")[0]) for name in left if name.endswith(".json") and "/step_" in name
        )
        assert step >= newest
        newest = step
        assert sum(name.endswith(".tmp") for name in left) <= 1
    codes = [train(folder, *RUN).code for _ in range(2)]
    assert codes[-1] == 0  # the first of them may say that there was no progress
    assert differences(expected, remains(folder / "run")) == []


def test_deaths_at_start_up_lose_nothing(tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]) -> None:
    kill_while_starting(tmp_path, 5, undisturbed(), random.Random(1))


@pytest.mark.kill
def test_50_deaths_at_start_up_lose_nothing(tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]) -> None:
    kill_while_starting(tmp_path, 50, undisturbed(), random.Random(2))


def test_auto_goes_on_with_what_was_killed(tmp_path: Path, undisturbed: Callable[..., dict[str, Any]]) -> None:
    kill = inject.at_step(6, inject.send(signal.SIGKILL))
    assert train(tmp_path, *SMALL, "resume=auto", prepare=kill).code == -9
    assert train(tmp_path, *SMALL, "resume=auto").code == 0
    (run,) = (tmp_path / "outputs" / "train").iterdir()
    assert differences(undisturbed(), remains(run)) == []


def test_workers_may_come_and_go_between_lives(tmp_path: Path) -> None:
    """Killed four times, with other numbers of workers and other prefetching: no image is lost, doubled or another."""
    pictures = command(write_pictures(tmp_path / "pictures"))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()

    def recording(log: Path, dies_at: int | None = None) -> Callable[[], None]:
        def prepare() -> None:
            def record(self: Any, model: Any, state: Any, batch: Any) -> None:
                digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in batch["image"]]
                row = [state.step, list(zip(batch["index"].tolist(), digests, strict=True))]
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if state.step + 1 == dies_at:
                    inject.send(signal.SIGKILL)()

            inject.before(Trainer, "update", record)

        return prepare

    def samples(log: Path) -> dict[int, Any]:
        seen: dict[int, Any] = {}
        for line in log.read_text().splitlines():
            step, batch = json.loads(line)
            assert seen.setdefault(step, batch) == batch, f"step {step} was another one after a kill"
        return seen

    assert train(tmp_path / "one", *pictures, "data.num_workers=1", prepare=recording(tmp_path / "one.log")).code == 0
    for workers, dies_at in ((0, 3), (2, 6), (3, 11), (0, 14), (2, None)):
        more = (f"data.num_workers={workers}", f"data.prefetch={1 + workers}")
        code = train(tmp_path / "other", *pictures, *more, prepare=recording(tmp_path / "other.log", dies_at)).code
        assert code == (0 if dies_at is None else -9)
    assert samples(tmp_path / "other.log") == samples(tmp_path / "one.log")
    assert differences(remains(tmp_path / "one" / "run"), remains(tmp_path / "other" / "run")) == []
    assert len(lines(tmp_path / "other.log")) > 16  # some steps were trained twice


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    train(tmp_path, *RUN, prepare=inject.at_step(6, inject.send(signal.SIGTERM)))
    ended = train(tmp_path, *RUN, "threads=2")
    assert ended.code == 0
    assert "the last bits may differ: threads: 1 before, 2 now" in ended.out + ended.err
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest() is not None
