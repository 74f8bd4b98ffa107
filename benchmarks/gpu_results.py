"""Where the GPU targets write what they have measured: the card and the versions, and Markdown beside JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pairs import processor

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "timm", "triton", "numpy")

# Dense bf16 operations per second in 10^12, from NVIDIA's data sheets; the first name that a card's name contains.
PEAKS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


def peak_of(name: str) -> float | None:
    """
    >>> peak_of("NVIDIA H200"), peak_of("NVIDIA H100 PCIe"), peak_of("Tesla T4")
    (989.4, 756.0, None)
    """
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def machine(device: str) -> dict[str, Any]:
    """Everything that the numbers hold for."""
    cuda = device == "cuda"
    return {
        "card": torch.cuda.get_device_name(0) if cuda else f"no GPU; {processor()}",
        "driver": _driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": f"python {' '.join(sys.argv)}",
    }


def folder_for(device: str, given: Path | None) -> Path:
    """benchmarks/results is for what a card has measured; a trial on a CPU goes elsewhere."""
    return given or (ROOT / "benchmarks" / "results" if device == "cuda" else ROOT / ".gpu" / "results")


def write(folder: Path, what: str, here: dict[str, Any], rows: Sequence[dict[str, Any]], title: str) -> Path:
    """Writes `<what>_<card>.json` and `.md`, anew at each call, so that what is there is there when time ends."""
    folder.mkdir(parents=True, exist_ok=True)
    card = re.sub(r"[^a-z0-9]+", "-", here["card"].removeprefix("NVIDIA ").lower()).strip("-")
    path = folder / f"{what}_{card if here['driver'] else 'cpu'}.md"
    path.with_suffix(".json").write_text(json.dumps({**here, "results": list(rows)}, indent=1) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row if not isinstance(row[key], list)))
    lines = [f"# {title}", "", *_facts(here), "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def _facts(here: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    on = f"driver {here['driver']}, CUDA {here['cuda']}, cuDNN {here['cudnn']}, " if here["driver"] else ""
    return [
        f"{here['card']}, {on}{versions}, Python {here['python']}, {here['processor']}, {here['cores']} cores.",
        f"Commit {here['commit']}, {here['date']}: `{here['command']}`",
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _driver() -> str:
    asked = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return (_output(*asked) or "unknown").splitlines()[0]


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
