"""A run that was killed ends with the bits of one left alone, on a GPU with trainer.deterministic=true as on a CPU."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harness import inject
from tests.harness.gpu import CUDA, DEVICES, FAST, augmented_written_to, command
from tests.harness.runs import differences, remains, train

REST = ("augment.crop.pad=1", "trainer.clip_norm=1.0", "trainer.ema_decay=0.95")
ALL = ("augment=[crop_flip,random_erasing]", *REST)
SETTINGS: dict[str, tuple[str, ...]] = {
    "all that draws": ("augment=[crop_flip,random_erasing,mixup_or_cutmix]", *REST),
    "bf16": ("trainer.precision=bf16", *ALL),
    "fp16 with its scaler": ("trainer.precision=fp16", *ALL),
    "channels last": ("trainer.channels_last=true", *ALL),
    "accumulate": ("trainer.accumulate=2", *ALL),
    "agc": ("trainer.clip_agc=0.01", *ALL),
    "compile": ("trainer.compile=true", *ALL),
    "class weights": ("task.class_weights=balanced", *ALL),
    "adamw": ("optimizer=adamw", *ALL),
    "muon": ("optimizer=muon", *ALL),
    **{name: (*typed, *ALL) for name, typed in FAST.items()},
}
CASES = [("cpu", "fp16 with its scaler"), *(pytest.param("cuda", name, marks=pytest.mark.gpu) for name in SETTINGS)]


def killed_and_continued(folder: Path, *arguments: str, at: int = 6) -> dict[str, Any]:
    """What remains of a run that was killed in step `at`, which is no step of a save."""
    folder.mkdir()
    assert train(folder, *arguments, prepare=inject.at_step(at, inject.send(signal.SIGKILL))).code == -9
    ended = train(folder, *arguments)
    assert ended.code == 0, ended.err
    return remains(folder / "run")


def left_alone(folder: Path, *arguments: str) -> dict[str, Any]:
    folder.mkdir()
    ended = train(folder, *arguments)
    assert ended.code == 0, ended.err
    return remains(folder / "run")


@pytest.mark.parametrize(("device", "setting"), CASES)
def test_a_killed_run_ends_with_the_same_bits_where_it_is_deterministic(
    device: str, setting: str, tmp_path: Path
) -> None:
    run = command(device, "trainer.deterministic=true", *SETTINGS[setting])
    expected = left_alone(tmp_path / "one", *run)
    assert differences(expected, killed_and_continued(tmp_path / "other", *run)) == []


@pytest.mark.parametrize("device", [CUDA])
def test_the_scaler_of_fp16_is_part_of_what_remains(device: str, tmp_path: Path) -> None:
    saved = left_alone(tmp_path / "one", *command(device, "trainer.precision=fp16"))["state"]["scaler"]
    assert saved["scale"] > 1 and saved["_growth_tracker"] > 0


@pytest.mark.parametrize("device", DEVICES)
def test_without_deterministic_the_data_draws_rates_and_counters_are_exact_and_weights_agree(
    device: str, tmp_path: Path
) -> None:
    """To the spread of the kernels alone: what is drawn, when, and at which rate does not depend on them."""
    run, found, seen = command(device, *ALL), [], []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        prepare = lambda name=name: augmented_written_to(tmp_path / f"{name}.log")  # noqa: E731
        assert train(tmp_path / name, *run, prepare=prepare).code == 0
        found.append(remains(tmp_path / name / "run"))
        seen.append((tmp_path / f"{name}.log").read_text())
    assert seen[0] == seen[1]
    assert exact(found[0]) == exact(found[1])
    one, other = (torch.cat([w.flatten().double() for w in state_of(part)]) for part in found)
    assert torch.linalg.vector_norm(one - other) < 1e-2 * torch.linalg.vector_norm(one)  # after ten steps of float32


@pytest.mark.parametrize("device", [CUDA])
def test_another_seed_is_another_run(device: str, tmp_path: Path) -> None:
    """The control of all these: what is compared does depend on what is drawn."""
    run = command(device, "trainer.deterministic=true", *ALL)
    assert differences(left_alone(tmp_path / "one", *run), left_alone(tmp_path / "other", *run, "seed=1")) != []


def exact(left: dict[str, Any]) -> Any:
    rows = [{key: row[key] for key in ("step", "epoch", "train/lr")} for row in left["rows"]]
    counters = {key: left["state"][key] for key in ("step", "reported", "skipped", "skipped_in_a_row")}
    groups = left["state"]["optimizer"]["param_groups"]
    return rows, counters, [{key: value for key, value in group.items() if key != "params"} for group in groups]


def state_of(left: dict[str, Any]) -> list[torch.Tensor]:
    return [value for value in left["state"]["model"].values() if value.is_floating_point()]
