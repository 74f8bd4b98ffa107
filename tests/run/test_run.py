"""What surrounds the loop in a run: its folder, torch's switches, what is said when memory runs out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from plainloop.distributed import collectives, process_group
from plainloop.errors import BadConfig, OutOfMemory, RunError
from plainloop.run import backend
from plainloop.run.run import share_folder
from tests.harness.ranks import on_ranks


def test_ranks_that_were_started_elsewhere_get_rank_0s_absolute_folder(tmp_path: Path) -> None:
    def act() -> Path:
        here = tmp_path / str(collectives.rank())
        here.mkdir()
        os.chdir(here)
        return share_folder(Path("outputs/a"))[0]

    assert on_ranks(tmp_path / "meeting", 2, act) == [tmp_path / "0/outputs/a"] * 2


@pytest.mark.parametrize(("accumulate", "more"), [(1, "trainer.accumulate=2"), (2, "trainer.accumulate=6"), (6, "")])
def test_out_of_memory_prints_the_command_with_smaller_micro_batches(accumulate: int, more: str) -> None:
    command = "python train.py resume=a {}".format
    with (
        pytest.raises(OutOfMemory, match="out of memory: no 2 GiB left") as error,
        backend.errors_explained(accumulate=accumulate, rank_batch=6, command=command),
    ):
        raise torch.OutOfMemoryError("no 2 GiB left")
    assert error.value.hint.endswith(command(more) if more else "a smaller model, or smaller images")


@pytest.mark.parametrize(
    ("deterministic", "cudnn_benchmark", "on"),
    [(False, "auto", True), (True, "auto", False), (False, False, False), (True, True, True)],
)
def test_cudnn_searches_for_kernels_unless_deterministic_or_told(
    deterministic: bool, cudnn_benchmark: bool | str, on: bool
) -> None:
    try:
        backend.prepare(deterministic=deterministic, detect_anomaly=False, cudnn_benchmark=cudnn_benchmark)
        assert torch.backends.cudnn.benchmark is on
    finally:
        backend.prepare(deterministic=False, detect_anomaly=False, cudnn_benchmark="auto")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_errors_of_cudas_libraries_are_out_of_memory_as_well(words: str) -> None:
    with (
        pytest.raises(OutOfMemory, match=re.escape(f"out of memory: {words}")),
        backend.errors_explained(accumulate=1, rank_batch=6, command="{}".format),
    ):
        raise RuntimeError(words)


def test_an_operation_without_a_deterministic_form_says_which_key_asks_for_it() -> None:
    backend.prepare(deterministic=True, detect_anomaly=False, cudnn_benchmark="auto")
    try:
        with (
            pytest.raises(BadConfig, match=r"^trainer.deterministic=true: put_ does not have a deterministic .*tion$"),
            backend.errors_explained(accumulate=1, rank_batch=6, command="{}".format),
        ):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        backend.prepare(deterministic=False, detect_anomaly=False, cudnn_benchmark="auto")


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (
            "backend='inductor' raised:\nRuntimeError: Failed to find C compiler. Please specify via CC",
            "trainer.compile=true needs a C compiler",
            "trainer.compile=false",
        ),
        ("CUDA error: device-side assert triggered\nCUDA kernel errors might be", "device-side assert", "device=cpu"),
    ],
)
def test_what_only_a_gpu_machine_says_gets_something_to_type(words: str, what: str, hint: str) -> None:
    with (
        pytest.raises(RunError, match=what) as error,
        backend.errors_explained(accumulate=1, rank_batch=6, command="{}".format),
    ):
        raise RuntimeError(words)
    assert hint in error.value.hint


def test_two_ranks_on_one_gpu_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = "NCCL error in: ... invalid usage. Last error: Duplicate GPU detected : rank 1 and rank 0 both on CUDA 7000"
    with pytest.raises(BadConfig, match="two ranks have the same GPU"), process_group.lost_peers_named(1.0):
        raise RuntimeError(words)
