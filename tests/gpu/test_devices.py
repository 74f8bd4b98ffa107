"""Which device a run takes, and what it says where that is not there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness import inject
from tests.harness.children import Ended
from tests.harness.gpu import DEVICES, command
from tests.harness.runs import status, train


def seeing(visible: str | None, folder: Path, *arguments: str) -> Ended:
    """The run of a process to which these GPUs are visible."""

    def prepare() -> None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible

    return train(folder, *arguments, prepare=prepare)


def device_said(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return next(line.split()[1] for line in (ended.out + ended.err).splitlines() if line.startswith("device "))


def test_cuda_that_is_not_visible_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    ended = seeing("", tmp_path, *command("cpu"), "device=cuda")
    assert ended.code == 64
    assert "torch sees no CUDA device" in ended.err and "device=cpu" in ended.err
    assert not (tmp_path / "run").exists()


def test_auto_is_the_cpu_where_no_gpu_is_visible(tmp_path: Path) -> None:
    assert device_said(seeing("", tmp_path, *command("cpu"), "device=auto", "trainer.duration=1st")) == "cpu,"


@pytest.mark.gpu
@pytest.mark.parametrize("visible", [None, "0", "uuid"])
@pytest.mark.parametrize("devices", ["auto", "1", "[0]"])
def test_auto_is_the_visible_gpu(visible: str | None, devices: str, tmp_path: Path) -> None:
    from plainloop.system.gpus import gpus

    visible = gpus()[0].uuid if visible == "uuid" else visible
    run = (*command("cpu"), "device=auto", f"trainer.devices={devices}", "trainer.duration=1st")
    assert device_said(seeing(visible, tmp_path, *run)) == "cuda:0"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["devices"][0] == gpus()[0].name


@pytest.mark.gpu
def test_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    ended = seeing("0", tmp_path, *command("cpu"), "device=auto", "trainer.devices=2")
    assert ended.code == 64
    assert "asks for more GPUs than there are" in ended.err


@pytest.mark.parametrize(("first", "then"), [("cpu", "cpu"), pytest.param("cuda", "cpu", marks=pytest.mark.gpu)])
def test_a_checkpoint_goes_on_elsewhere_and_back(first: str, then: str, tmp_path: Path) -> None:
    """With all that a state can have: fp16's scaler, averaged weights, a fused optimizer's counters."""
    full = ("optimizer=adamw", "trainer.precision=fp16", "trainer.ema_decay=0.9", "trainer.clip_norm=1.0")

    def part(device: str, at: int | None) -> int:
        stop = inject.at_step(at, inject.send(signal.SIGTERM)) if at else lambda: None
        return train(tmp_path, *command("cpu", *full), f"device={device}", prepare=stop).code

    assert (part(first, 4), part(then, 7), part(first, None)) == (75, 75, 0)
    assert status(tmp_path / "run")["state"] == "DONE"
    state = Checkpoints(tmp_path / "run" / "checkpoints").newest().state
    assert state["step"] == 10 and state["scaler"]["scale"] > 0
    assert all(entry["step"] == 10 for entry in state["optimizer"]["state"].values())


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_written_down_as_it_was_in_force(tf32: bool, tmp_path: Path) -> None:
    run = (*command("cuda"), "trainer.duration=1st", f"trainer.tf32={str(tf32).lower()}")
    assert train(tmp_path, *run).code == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["tf32"] is tf32


@pytest.mark.parametrize("device", DEVICES)
def test_jobs_of_a_pool_share_a_device(device: str, tmp_path: Path) -> None:
    share = "hydra.launcher.slots=2" if device == "cpu" else "hydra.launcher.jobs_per_gpu=2"
    run = [part for part in command(device) if not part.startswith("hydra.run.dir")]
    ended = train(tmp_path, "-m", *run, "seed=0,1", "hydra/launcher=gpu_pool", share, "hydra.sweep.dir=sweep")
    assert ended.code == 0, ended.err
    for job in ("0", "1"):
        assert status(tmp_path / "sweep" / job)["state"] == "DONE"
        environment = json.loads((tmp_path / "sweep" / job / "environment.json").read_text())
        assert len(environment["devices"]) == (0 if device == "cpu" else 1)
    began, ended_at = zip(*(times(tmp_path / "sweep" / job) for job in ("0", "1")), strict=True)
    assert max(began) < min(ended_at)  # at the same time


def times(folder: Path) -> tuple[float, float]:
    rows = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    started = next(row["started"] for row in rows if "started" in row)
    return started, next(row["ended"] for row in rows if "ended" in row)
