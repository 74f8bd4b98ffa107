"""Rules about devices, and how many processes a config asks for. Imports torch only where it must ask the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from plainloop.config.check.findings import Case, Finding, Rule, Warned
from plainloop.system.gpus import first_visible

# What torch calls x86 processors that compute bf16 by way of fp32, number by number.
_WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")


def ranks_of(config: Mapping[str, Any], launcher: Mapping[str, Any] | None = None) -> int:
    """Processes that will train: those already dealt, else the launcher's nodes x tasks, else `trainer.devices`."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    dealt = int((launcher or {}).get("nodes") or 1) * int((launcher or {}).get("tasks_per_node") or 1)
    devices = config["trainer"]["devices"]
    if dealt > 1:
        return dealt
    if isinstance(devices, list):
        return max(1, len(devices))
    if devices == "auto":
        gpus = _visible_gpus() if config["device"] in ("auto", "cuda") and _is_local(launcher) else 1
        return max(1, min(gpus, (launcher or {}).get("gpus_per_job", gpus)))
    return max(1, int(devices))


def device_is_there(case: Case) -> Iterator[Finding]:
    import torch

    device, devices = case.get("device"), case.get("trainer.devices")
    if device == "cuda" and not torch.cuda.is_available():
        yield case.problem("device", "torch sees no CUDA device", got="cuda", instead="device=cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        yield case.problem("device", "this machine has no MPS device", got="mps", instead="device=cpu")
    gpus = _visible_gpus() if device in ("auto", "cuda") else 0
    wanted = max(devices, default=0) + 1 if isinstance(devices, list) else devices if isinstance(devices, int) else 0
    if gpus and wanted > gpus:
        yield case.problem(
            "trainer.devices",
            "asks for more GPUs than there are",
            got=str(devices),
            expected=f"at most {gpus}, numbered from 0",
            instead="trainer.devices=auto",
        )
    if isinstance(devices, list) and not gpus and device != "cuda":
        numbers = ", ".join(map(str, devices))
        yield Warned(f"trainer.devices=[{numbers}] names GPUs, and none is used: {len(devices)} processes on the CPU")


def precision_suits_the_device(case: Case) -> Iterator[Finding]:
    import torch

    precision, device = case.get("trainer.precision"), case.get("device")
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    gpu = first_visible() if cuda else None  # torch would wake CUDA to say it
    if precision == "bf16" and gpu is not None and gpu.capability < (8, 0):
        yield case.problem(
            "trainer.precision",
            f"{gpu.name} computes no bf16",
            got="bf16",
            expected="fp16 or fp32",
            instead="trainer.precision=fp16",
        )
    if precision == "fp16" and not cuda:
        yield Warned("trainer.precision=fp16 without a GPU is slower than fp32; bf16 needs no gradient scaler")
    on_cpu = device == "cpu" or (device == "auto" and not cuda and not torch.backends.mps.is_available())
    if precision == "bf16" and on_cpu and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BF16:
        yield Warned(
            "trainer.precision=bf16 on this CPU, which has no bf16 instructions, is several times slower than fp32"
        )
    if case.get("trainer.sync_batchnorm") and case.ranks > 1 and not cuda:
        yield case.problem(
            "trainer.sync_batchnorm",
            "needs CUDA devices: torch computes it nowhere else",
            got="true",
            instead="trainer.sync_batchnorm=false",
        )


def devices_agree_with_the_launcher(case: Case) -> Iterator[Finding]:
    dealt, devices = os.environ.get("WORLD_SIZE"), case.get("trainer.devices")
    wanted = len(devices) if isinstance(devices, list) else devices
    if dealt is not None and isinstance(wanted, int) and wanted != int(dealt):
        yield case.problem(
            "trainer.devices",
            f"a launcher has started {dealt} processes already",
            got=str(devices),
            expected=f"auto, or {dealt}",
            instead="leave trainer.devices out",
        )


def _is_local(launcher: Mapping[str, Any] | None) -> bool:
    return "slurm" not in str((launcher or {}).get("_target_", "")).lower()


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


HARDWARE: tuple[Rule, ...] = (devices_agree_with_the_launcher, device_is_there, precision_suits_the_device)
