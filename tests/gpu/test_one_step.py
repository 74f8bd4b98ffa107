"""One step does the same on every device, in every precision and form, up to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.harness.gpu import FAST, command
from tests.harness.runs import lines, train

ONE = ("trainer.duration=1st", "trainer.log_every=1st", "trainer.save_every=never")
# Setting -> what is typed, and how far the loss, the gradient's norm and a quarter of the step may be from float32's.
SETTINGS: dict[str, tuple[tuple[str, ...], float]] = {
    "fp32": ((), 5e-3),  # cuDNN's convolutions take TF32 where they can: 10 bits
    "bf16": (("trainer.precision=bf16",), 5e-2),  # 7 bits
    "fp16": (("trainer.precision=fp16",), 1e-2),  # 10 bits
    "tf32": (("trainer.tf32=true",), 5e-3),  # 10 bits
    "channels last": (("trainer.channels_last=true",), 5e-3),
    "accumulate": (("trainer.accumulate=2",), 5e-2),  # BatchNorm with other statistics
    "compile": (("trainer.compile=true",), 5e-3),
    "ema": (("trainer.ema_decay=0.9",), 3e-2),  # after the first step it has gone nine tenths of the way
    "agc": (("trainer.clip_agc=10",), 5e-3),
    "clipped": (("trainer.clip_norm=100", "trainer.clip_value=100"), 5e-3),
    "class weights": (("task.class_weights=balanced",), 0.2),
    **{name: (typed, 5e-2) for name, typed in FAST.items()},
}
ON_CPU = ("bf16", "channels last", "accumulate")
CASES = [
    *(("cpu", name) for name in ON_CPU),
    *(pytest.param("cuda", name, marks=pytest.mark.gpu) for name in SETTINGS),
]


def one_step(folder: Path, device: str, *more: str) -> tuple[dict[str, float], torch.Tensor]:
    """The row of the step, and the weights after it."""
    folder.mkdir()
    ended = train(folder, *command("cpu", *ONE), f"device={device}", *more)
    assert ended.code == 0, ended.err
    weights = load_file(folder / "run" / "last.safetensors")
    (row,) = lines(folder / "run" / "metrics.jsonl")
    trained = [name for name in sorted(weights) if name.endswith((".weight", ".bias"))]
    return row, torch.cat([weights[name].flatten().double() for name in trained])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], torch.Tensor]:
    return one_step(tmp_path_factory.mktemp("reference") / "one", "cpu")


@pytest.mark.parametrize(("device", "setting"), CASES)
def test_one_step_is_that_of_float32_on_the_cpu_up_to_rounding(
    device: str, setting: str, reference: tuple[dict[str, float], torch.Tensor], tmp_path: Path
) -> None:
    typed, tolerance = SETTINGS[setting]
    row, weights = one_step(tmp_path / "one", device, *typed)
    expected_row, expected = reference
    for key in ("train/loss", "train/grad_norm"):
        assert row[key] == pytest.approx(expected_row[key], rel=tolerance), key
    length = expected_row["train/lr"] * expected_row["train/grad_norm"]  # of SGD's first step
    assert torch.linalg.vector_norm(weights - expected) < 4 * tolerance * length


@pytest.mark.parametrize("setting", ["bf16"])
def test_another_precision_is_not_the_same_to_the_bit(
    setting: str, reference: tuple[dict[str, float], torch.Tensor], tmp_path: Path
) -> None:
    """The control: the setting reaches the arithmetic."""
    row, _ = one_step(tmp_path / "one", "cpu", *SETTINGS[setting][0])
    assert row["train/loss"] != reference[0]["train/loss"]
