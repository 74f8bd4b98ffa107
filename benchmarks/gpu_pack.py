"""Packs what the GPU targets need beside torch, for a machine without a network: wheels and Fashion-MNIST.

    make pack-gpu                                # for Python 3.12 on Linux x86-64, into .gpu/pack
    make pack-gpu ARGS="--python 3.11"
    make pack-gpu ARGS="--also scikit-learn --no-data"   # for a Python that lacks it

Take the repository with .gpu/pack to that machine; there `make test-gpu PYTHON=python3` and its sisters use what
python3 has, and the packed wheels for the rest. Versions are those of requirements.lock.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_ready import floors

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / ".gpu" / "pack"
MOST_MIB = 60
# What Pythons with torch mostly have and is too large to carry, and what the GPU targets do not import.
LEFT_OUT = {"torch", "torchvision", "numpy", "pillow", "scipy", "scikit-learn", "huggingface-hub", "colorama"}
FROM_SOURCE = ("antlr4-python3-runtime",)  # has no wheel on the package index; a pure Python one is built here
GLIBC = range(5, 35)  # a wheel names the oldest glibc that it runs with, and pip matches the name exactly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="the version of that machine's Python")
    parser.add_argument("--also", nargs="*", default=[], help="packages that it lacks as well, such as scikit-learn")
    parser.add_argument("--no-data", action="store_true", help="without Fashion-MNIST")
    parser.add_argument("--to", type=Path, default=PACK)
    arguments = parser.parse_args()

    shutil.rmtree(arguments.to, ignore_errors=True)
    wheels = arguments.to / "wheels"
    wheels.mkdir(parents=True)
    pins = pins_of((ROOT / "requirements.lock").read_text())
    names = closure([*floors(), *arguments.also], left_out=LEFT_OUT - set(arguments.also))
    fetch([f"{name}=={pins[name]}" for name in sorted(names)], wheels, python=arguments.python)
    if not arguments.no_data:
        copy_fashion_mnist(arguments.to / "fashion-mnist")
    files = sorted((file for file in arguments.to.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    size = sum(file.stat().st_size for file in files) / 2**20
    if size > MOST_MIB:
        largest = ", ".join(f"{file.name} ({file.stat().st_size / 2**20:.1f})" for file in reversed(files[-4:]))
        sys.exit(f"{arguments.to} has {size:.1f} MiB, and {MOST_MIB} are allowed; the largest: {largest}")
    print(f"{arguments.to}: {len(names)} wheels for Python {arguments.python}, {size:.1f} MiB")


def pins_of(lock: str) -> dict[str, str]:
    """Package -> version, of a lock file.

    >>> pins_of("PyYAML==6.0.3 ; python_version > '3' \\\\\\n    --hash=sha256:ab\\nrich==15.0.0")
    {'pyyaml': '6.0.3', 'rich': '15.0.0'}
    """
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def closure(names: list[str], *, left_out: set[str]) -> set[str]:
    """The packages and all that they need, as they are installed here; not what is left out."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name in left_out:
            continue
        found.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed here, so that its needs are unknown; type: make setup")
        waiting += [canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def fetch(pinned: list[str], wheels: Path, *, python: str) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [pin for pin in pinned if pin.startswith(FROM_SOURCE)]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["--platform=manylinux2014_x86_64"]
    here = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    downloaded = [pin for pin in pinned if pin not in built]
    subprocess.run([*pip, "download", "--no-deps", *here, f"--dest={wheels}", *downloaded], check=True)
    if built:
        subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", *built], check=True)


def copy_fashion_mnist(into: Path) -> None:
    from plainloop.data.fashion_mnist import FILES, folder

    found = folder(None)
    into.mkdir()
    for name in FILES.values():
        (file,) = [path for path in (found / f"{name}.gz", found / name) if path.is_file()][:1]
        shutil.copy(file, into)


if __name__ == "__main__":
    main()
