"""A run that goes on with another config: what could change what is done is refused, the rest is not."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import yaml

from plainloop.config.compare import differences
from tests.harness import inject
from tests.harness.pictures import command, write_pictures
from tests.harness.runs import SMALL, files, lines, remains, train

RUN = (*SMALL, "hydra.run.dir=run")

REFUSED = (
    "seed=1",
    "optimizer.lr=0.2",
    "optimizer.momentum=0.5",
    "optimizer.weight_decay=0.0",
    "optimizer=adamw",
    "scheduler=cosine",
    "scheduler.warmup=2st",
    "model.width=8",
    "model.drop_rate=0.1",
    "data.batch_size=120",
    "data.mean=[0.5]",
    "augment=crop_flip",
    "task.label_smoothing=0.1",
    "trainer.precision=bf16",
    "trainer.clip_norm=1.0",
    "trainer.ema_decay=0.9",
    "trainer.eval_every=3st",
    "trainer.early_stop.patience=3",
    "trainer.on_nonfinite=skip",
    "checkpoint.mode=min",
)
ACCEPTED = (
    "trainer.log_every=2",
    "trainer.save_every=3st",
    "checkpoint.every_minutes=0.001",
    "checkpoint.keep_last=3",
    "trainer.accumulate=2",
    "device=cpu",
    "logger=csv",
    "data.num_workers=1",
    "trainer.duration=14st",
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    assert train(folder, *RUN, prepare=inject.at_step(7, inject.send(signal.SIGTERM))).code == 75
    return folder


@pytest.mark.parametrize("change", REFUSED)
def test_what_could_change_the_past_is_refused_in_three_columns(change: str, stopped: Path) -> None:
    attempts = (stopped / "run" / "checkpoints").stat()
    ended = train(stopped, *RUN, change)
    key = change.partition("=")[0]
    assert ended.code == 64
    table = [line.split() for line in ended.err.splitlines() if line.startswith("  ")]
    assert table[0] == ["key", "saved", "now"]
    assert any(row[0] == key or row[0].startswith(f"{key}.") for row in table[1:]), ended.err
    assert "init_from=" in ended.err.splitlines()[-1]
    assert (stopped / "run" / "checkpoints").stat().st_mtime == attempts.st_mtime


@pytest.mark.parametrize("change", ACCEPTED)
def test_what_cannot_change_the_past_is_accepted_and_written_down(change: str, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    ended = train(tmp_path, *RUN, change)
    assert ended.code == 0, ended.err
    (event,) = [row for row in lines(tmp_path / "run" / "events.jsonl") if row["kind"] == "config_changed"]
    key = change.partition("=")[0]
    assert any(pair["key"].startswith(key) for pair in event["changes"])
    total = 14 if "duration" in key else 10
    assert remains(tmp_path / "run")["state"]["step"] == total


def test_a_longer_run_continues_as_if_it_had_been_meant_to(stopped: Path, tmp_path: Path) -> None:
    """A finished one, too. Its weights are those of a run that was given the whole duration at once."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    assert train(tmp_path, *RUN).code == 0
    assert train(tmp_path, *RUN, "trainer.duration=15st").code == 0
    assert train(tmp_path, *SMALL, "trainer.duration=15st", "hydra.run.dir=whole").code == 0
    ours, whole = remains(tmp_path / "run"), remains(tmp_path / "whole")
    assert ours["last.safetensors"] == whole["last.safetensors"]


def test_a_run_is_never_longer_than_it_is_told_to_be(stopped: Path, tmp_path: Path) -> None:
    """Seven steps are done: a run of seven is finished, one of six cannot be."""
    for steps, code in ((6, 64), (7, 0)):
        folder = tmp_path / str(steps)
        shutil.copytree(stopped / "run", folder / "run")
        before = files(folder / "run")
        ended = train(folder, *RUN, f"trainer.duration={steps}st")
        assert ended.code == code, ended.err
        if code:
            assert "7 steps are done already, and trainer.duration=6st is 6" in ended.err
            assert {name for name in before if files(folder / "run")[name] != before[name]} <= {"run.lock", "train.log"}


@pytest.mark.parametrize(
    ("scheduler", "code"),
    [
        (("scheduler=multistep", "scheduler.milestones=[1ep,3ep]"), 0),
        (("scheduler=multistep", "scheduler.milestones=[50%,75%]"), 64),
        (("scheduler=cosine",), 64),
        (("scheduler=linear", "scheduler.warmup=1ep"), 64),
    ],
    ids=str,
)
def test_another_duration_is_judged_by_the_rates_that_were_used(
    scheduler: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    assert train(tmp_path, *RUN, *scheduler, prepare=inject.at_step(7, inject.send(signal.SIGTERM))).code == 75
    ended = train(tmp_path, *RUN, *scheduler, "trainer.duration=20st")
    assert ended.code == code, ended.err
    if code:
        assert "another duration would have changed the learning rate of step" in ended.err
        assert "init_from=" in ended.err


def test_another_class_in_the_data_is_refused(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "pictures")
    small = (*command(root), "data.num_workers=0")
    assert train(tmp_path, *small, prepare=inject.at_step(5, inject.send(signal.SIGTERM))).code == 75
    for split in ("train", "val"):
        shutil.copytree(root / split / "class_0", root / split / "class_9")
    ended = train(tmp_path, *small)
    assert ended.code == 64
    assert "facts.class_names" in ended.err and "class_9" in ended.err


def test_a_config_edited_by_hand_is_seen(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    saved = yaml.safe_load(path.read_text())
    saved["optimizer"]["lr"] = 0.3
    path.write_text(yaml.safe_dump(saved))
    ended = train(tmp_path, *RUN)
    assert ended.code == 64
    assert ["optimizer.lr", "0.3", "0.1"] in [line.split() for line in ended.err.splitlines()]


def test_a_later_key_of_an_open_group_is_no_difference_at_the_value_that_was_meant_before() -> None:
    found = differences({"data": {"root": "a"}}, {"data": {"root": "a", "sampler": "shuffled", "repeats": 2}})
    assert [pair.key for pair in found] == ["data.repeats"]
