"""Rules about this machine: its devices, its folders, and how many processes a config asks for.

Nothing is created to find out, and torch is imported only where it must be asked about devices.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plainloop.config.check.findings import Caution, CheckContext, Finding, Findings, Rule
from plainloop.system.gpus import first_visible

# What torch calls x86 processors that compute bf16 by way of fp32, number by number.
_WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
_LONGEST = 255  # bytes of a file's name, on every file system that we know
_LONGEST_PATH = 3900  # bytes; discarded/1/checkpoints/ and the temporary names of files come behind it
_CLONE = Path(__file__).resolve().parents[4]


def ranks_of(config: Mapping[str, Any], launcher: Mapping[str, Any] | None = None) -> int:
    """Processes that will train: those already started, else the launcher's nodes x tasks, else `trainer.devices`."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    launcher, devices = launcher or {}, config["trainer"]["devices"]
    tasks = int(launcher.get("nodes") or 1) * int(launcher.get("tasks_per_node") or 1)
    if tasks > 1:
        return tasks
    if isinstance(devices, list):
        return max(1, len(devices))
    if devices == "auto":
        import torch

        gpus = torch.cuda.device_count() if config["device"] in ("auto", "cuda") and is_local(launcher) else 1
        return max(1, min(gpus, launcher.get("gpus_per_job", gpus)))
    return max(1, int(devices))


def is_local(launcher: Mapping[str, Any] | None) -> bool:
    return "slurm" not in str((launcher or {}).get("_target_", "")).lower()


def device_is_there(context: CheckContext) -> Findings:
    import torch

    device, devices, key = context.get("device"), context.get("trainer.devices"), "trainer.devices"
    if device == "cuda" and not torch.cuda.is_available():
        yield Finding("device", "torch sees no CUDA device", "cuda", instead="device=cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        yield Finding("device", "this machine has no MPS device", "mps", instead="device=cpu")
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    wanted = max(devices, default=0) + 1 if isinstance(devices, list) else devices if isinstance(devices, int) else 0
    if gpus and wanted > gpus:
        expected = f"at most {gpus}, numbered from 0"
        yield Finding(key, "asks for more GPUs than there are", str(devices), expected, f"{key}=auto")
    if isinstance(devices, list) and not gpus and device != "cuda":
        yield Caution(f"{key}={devices} names GPUs, and none is used: {len(devices)} processes on the CPU")


def precision_suits_the_device(context: CheckContext) -> Findings:
    import torch

    precision, device, key = context.get("trainer.precision"), context.get("device"), "trainer.precision"
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    gpu = first_visible() if cuda else None  # torch would initialise CUDA
    if precision == "bf16" and gpu is not None and gpu.capability < (8, 0):
        yield Finding(key, f"{gpu.name} computes no bf16", "bf16", "fp16 or fp32", f"{key}=fp16")
    if precision == "fp16" and not cuda:
        yield Caution(f"{key}=fp16 without a GPU is slower than fp32; bf16 needs no gradient scaler")
    on_cpu = device == "cpu" or (device == "auto" and not cuda and not torch.backends.mps.is_available())
    if precision == "bf16" and on_cpu and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BF16:
        yield Caution(f"{key}=bf16 on this CPU, which has no bf16 instructions, is several times slower than fp32")
    if context.get("trainer.sync_batchnorm") and context.ranks > 1 and not cuda:
        key, what = "trainer.sync_batchnorm", "needs CUDA devices: torch computes it nowhere else"
        yield Finding(key, what, "true", instead=f"{key}=false")


def devices_agree_with_the_launcher(context: CheckContext) -> Findings:
    started, devices = os.environ.get("WORLD_SIZE"), context.get("trainer.devices")
    wanted = len(devices) if isinstance(devices, list) else devices
    if started is not None and isinstance(wanted, int) and wanted != int(started):
        what = f"a launcher has started {started} processes already"
        yield Finding("trainer.devices", what, str(devices), f"auto, or {started}", "leave trainer.devices out")


def folder_can_be_written(context: CheckContext) -> Findings:
    """The nearest folder that exists must take new ones."""
    if context.folder is None:
        return
    above, what = context.folder.absolute(), ""
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = f"{above} {'cannot be written' if above.is_dir() else 'is no folder'}"
    elif any(len(os.fsencode(part)) > _LONGEST for part in context.folder.parts):
        what = f"has a part of more than {_LONGEST} bytes"
    elif len(os.fsencode(context.folder.absolute())) > _LONGEST_PATH:
        what = f"is longer than {_LONGEST_PATH} bytes, and its files need room in the system's 4096"
    else:
        what = _belongs_to(context, context.folder.resolve())
    if what:
        key = "hydra.sweep.dir" if context.is_typed("hydra.sweep.dir") else "hydra.run.dir"
        expected = "a folder that is yours, or one that can be made"
        yield Finding(key, what, str(context.folder), expected, f"{key}=<a folder of yours>")


def _belongs_to(context: CheckContext, folder: Path) -> str:
    """What a folder is that no run and no sweep may fill with its files; "" where they may."""
    data = context.get("data.root")
    root = Path(data).expanduser().resolve() if isinstance(data, str) else None
    if folder == Path(folder.anchor):
        return "is the whole file system"
    if folder == _CLONE:
        return "is the folder of the code"
    if folder == root or (folder.parent == root and folder.is_dir() and not (folder / "run.lock").exists()):
        return f"is the folder of the data, data.root={data}"
    if folder.name == "checkpoints" and any(folder.glob("step_*")):
        return f"holds the checkpoints of the run {folder.parent}"
    is_sweep = context.is_typed("hydra.run.dir") and (folder / "jobs.jsonl").exists()
    return "is the folder of a sweep" if is_sweep else ""


HARDWARE: tuple[Rule, ...] = (devices_agree_with_the_launcher, device_is_there, precision_suits_the_device)
