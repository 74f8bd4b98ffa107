"""Makes an interpreter ready for the GPU targets: prints the folder with what it lacks, installed from .gpu/pack.

    python3 benchmarks/gpu_ready.py [--device cpu]

`make test-gpu PYTHON=python3` and its sisters call it first. It fetches nothing. Ends with one message where no CUDA
device is visible, or where a package is missing that was not packed. Needs nothing beyond Python and pip.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / ".gpu" / "pack"
NOT_USED = {"wandb"}  # by no GPU target
WITHOUT_FLOOR = ("packaging", "pytest", "pytest-xdist", "execnet", "antlr4-python3-runtime", "cloudpickle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if sys.version_info < (3, 11):  # noqa: UP036  # any interpreter may be named
        sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}, and 3.11 or newer is needed")
    site = ROOT / ".gpu" / f"site-{sys.implementation.cache_tag}"
    sys.path.insert(0, str(site))
    if found := lacking():
        install(site, found)
        importlib.invalidate_caches()
    if left := lacking():
        sys.exit(message(left))
    require_device(device)
    print(site)


def floors() -> dict[str, str]:
    """Package -> lowest version that the code needs; pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text()
    found = dict(re.findall(r'^    "([a-z0-9-]+)>=([0-9.]+)",$', text, re.MULTILINE))
    return dict.fromkeys(WITHOUT_FLOOR, "0") | {name: low for name, low in found.items() if name not in NOT_USED}


def lacking() -> dict[str, str]:
    """Package -> what is there instead, of those that are missing or too old."""
    found = {}
    for name, low in floors().items():
        try:
            there = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
            continue
        if numbers(there) < numbers(low):
            found[name] = f"{there}, needed is {low}"
    return found


def numbers(text: str) -> tuple[int, ...]:
    """
    >>> numbers("2.11.0+cu130") < numbers("2.10"), numbers("1.0.20rc1")
    (False, (1, 0, 20))
    """
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def install(site: Path, names: dict[str, str]) -> None:
    """Installs the packed wheels of these packages, and of those that only the packed ones need."""
    wheels = sorted((PACK / "wheels").glob("*.whl"))
    wanted = [wheel for wheel in wheels if is_lacking(wheel, names)]
    if not wanted:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    offline = ["--no-index", "--no-deps", "--no-compile", "--upgrade", f"--target={site}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run([*pip, *offline, *map(str, wanted)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"the wheels of {PACK} do not fit {sys.executable}:\n{done.stderr.strip()}\n{PACK_AGAIN}")


def is_lacking(wheel: Path, names: dict[str, str]) -> bool:
    name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
    if name in names:
        return True
    try:
        return not version(name)
    except PackageNotFoundError:
        return True


PACK_AGAIN = (
    f"on a machine with a network: make pack-gpu ARGS='--python {sys.version_info[0]}.{sys.version_info[1]}', "
    "then take .gpu/pack along"
)


def message(left: dict[str, str]) -> str:
    listed = ", ".join(f"{name} ({why})" for name, why in left.items())
    if "torch" in left:
        return f"{sys.executable}: {listed}; make without PYTHON installs all in .venv"
    also = [name for name in left if name in ("scikit-learn", "numpy", "pillow")]
    more = f"; with --also {' '.join(also)} --no-data for these" if also else ""
    return f"{sys.executable} lacks {listed}; {PACK_AGAIN}{more}"


def require_device(device: str) -> None:
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        because = f"CUDA_VISIBLE_DEVICES={visible!r}" if visible is not None else "no driver, or no GPU"
        sys.exit(
            f"torch {torch.__version__} sees no CUDA device ({because}): nothing was run. "
            "DEVICE=cpu tries the same at toy size"
        )


if __name__ == "__main__":
    main()
