"""environment.json: where a run took place; and which parts of that bit-identical results depend on."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from plainloop.distributed import ranks
from plainloop.system.processes import num_cpus
from plainloop.system.secrets import redact
from plainloop.system.signals import signals_blocked

PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "omegaconf", "numpy", "safetensors", "wandb")

# Each changes numbers or tells where the job ran. Nothing else of the process's variables is written down.
# fmt: off
VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "MKL_NUM_THREADS", "NCCL_ALGO",
    "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "PYTHONHASHSEED", "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_NNODES", "SLURM_NTASKS",
    "SLURM_RESTART_COUNT", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "WORLD_SIZE",
)
# fmt: on

MOST_CHANGED = 200  # files
MOST_DIFF = 100_000  # characters; the commit and this much show what was run
GIT_TIMEOUT_S = 5.0  # a network file system may hang; a run must not


def environment(code: Path | None = None) -> dict[str, Any]:
    """What environment.json holds; no secrets. `code` is where git looks, by default this package's own folder."""
    import torch

    return {
        "git": git_state(Path(__file__).parent if code is None else code),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "memory_gb": [_memory_gb(index) for index in range(torch.cuda.device_count())],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "threads": torch.get_num_threads(),
        "ranks": ranks.world_size(),
        "cpu": {
            "name": _cpu_name(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "mkl": torch.backends.mkl.is_available(),
            "mkldnn": torch.backends.mkldnn.is_available(),
            "cores": num_cpus(),
        },
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "variables": {name: redact(os.environ[name]) for name in VARIABLES if name in os.environ},
    }


def fingerprint(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions for bit-identical results: libraries, threads, instruction set or GPU, determinism."""
    versions, cpu = environment["versions"], environment["cpu"]
    keys = ("cuda", "cudnn", "devices", "deterministic", "tf32", "threads", "machine")
    return (
        {name: versions[name] for name in ("torch", "torchvision", "timm", "numpy")}
        | {key: environment[key] for key in keys}
        | {"ranks": environment.get("ranks", 1), "cpu capability": cpu["capability"], "mkldnn": cpu["mkldnn"]}
    )


def fingerprint_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each part of two fingerprints that differs; with none, a resume continues bit for bit.

    >>> fingerprint_differences({"threads": 2, "torch": "2.11"}, {"threads": 4, "torch": "2.11"})
    ['threads: 2 before, 4 now']
    """
    names = [*old, *(name for name in new if name not in old)]
    return [f"{name}: {old.get(name)} before, {new.get(name)} now" for name in names if old.get(name) != new.get(name)]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, whether files differ from it, and how; None outside of a repository or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    diff = redact(_git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff") or "") if status else ""
    return {
        "commit": commit.strip(),
        "dirty": None if status is None else bool(status),  # None: git gave up
        "changed": redact(status or "").splitlines()[:MOST_CHANGED],  # files, new ones with "??"
        "diff": diff[:MOST_DIFF],
        "diff_complete": len(diff) <= MOST_DIFF,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None when it fails, hangs or is not installed. Signals to this job do not reach it."""
    try:
        with signals_blocked():
            result = subprocess.run(
                ["git", "--no-optional-locks", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=GIT_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
                start_new_session=True,
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def _memory_gb(index: int) -> float:
    import torch

    return round(float(torch.cuda.get_device_properties(index).total_memory) / 1e9, 1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """From /proc/cpuinfo, the only place where Linux has it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
